"""The table and the plot, made from what a run has saved."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Saved = dict[str, Any]


def seconds(value: float) -> str:
    """Return a time in the unit that suits it."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if value * factor < 1_000:
            return f"{number(value * factor)} {unit}"
    return f"{value:.2f} s"


def number(value: float) -> str:
    """Return a number with three digits, or a whole one."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _cell(figure: Saved, key: str) -> str:
    value = None if "flaw" in figure else figure.get(key)
    if value is None:
        return "-" if key == "median" else ""
    if key == "ratio":
        return f"{value:.2f}"
    return seconds(value) if figure["unit"] == "s" else number(value)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _table(figures: Sequence[Saved]) -> list[str]:
    """Return the table of one measure: a line for each contender, columns for each work."""
    columns = [
        (work, key)
        for work in _unique(figure["work"] for figure in figures)
        for key in ("median", "p90", "ratio")
        if key == "median" or any(key in one for one in figures if one["work"] == work)
    ]
    lines = [["", *(work if key == "median" else key for work, key in columns)]]
    flaws: dict[tuple[str, str], list[str]] = {}
    for name in _unique(figure["contender"] for figure in figures):
        mine = {figure["work"]: figure for figure in figures if figure["contender"] == name}
        lines.append([name, *(_cell(mine.get(work, {}), key) for work, key in columns)])
        for work, one in mine.items():
            if "flaw" in one:
                flaws.setdefault((name, one["flaw"]), []).append(work)
    said = [f"- {name} ({'; '.join(works)}): {flaw}." for (name, flaw), works in flaws.items()]
    return [*_aligned(lines), *([""] if flaws else []), *said]


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    made = []
    for line in lines:
        first, *others = (
            cell.ljust(width) if position == 0 else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        made.append("| " + " | ".join([first, *others]) + " |")
    rule = ["-" * (width + 1) + (":" if position else "-") for position, width in enumerate(widths)]
    made.insert(1, "|" + "|".join(rule) + "|")
    return made


def _to(figures: Sequence[Saved]) -> str:
    """Say what the ratios are to."""
    to = _unique(figure["to"] for figure in figures if "to" in figure)
    return f" (ratio to {', '.join(to)})" if to else ""


def head(saved: Saved) -> str:
    """Say when, where and of what."""
    machine, (before, after) = saved["machine"], saved["load"]
    versions = ", ".join(f"{name} {version}" for name, version in saved["versions"].items())
    return (
        f"{saved['date']}, {saved['scale']}, {saved['seconds']:.0f} s. {machine}. "
        f"Load average {before:.1f} before and {after:.1f} after. {versions}."
    )


def table(saved: Saved) -> str:
    """Return all of it as Markdown."""
    lines = [head(saved)]
    figures = saved["figures"]
    for measure in _unique(figure["measure"] for figure in figures):
        of_it = [figure for figure in figures if figure["measure"] == measure]
        lines += ["", f"**{measure}**{_to(of_it)}", "", *_table(of_it)]
    return "\n".join(lines) + "\n"


#: What the plot shows: the ratios of these, a row for each, a column for each of W1 to W4.
PLOTTED = (
    "hit, one client",
    "hits a second, 8 connections",
    "miss, one client",
    "miss, first byte",
)


def plot(saved: Saved, path: Path) -> bool:
    """Write a PNG of the ratios; False where there is nothing to plot."""
    plots = pyplot()
    figures = [one for one in saved["figures"] if one["measure"] in PLOTTED and "ratio" in one]
    if not figures:
        return False
    measures = [name for name in PLOTTED if any(one["measure"] == name for one in figures)]
    works = _unique(one["work"] for one in figures)
    height = [len(_names(figures, measure)) + 4 for measure in measures]
    picture, grid = plots.subplots(
        *(len(measures), len(works)),
        figsize=(4 * len(works), 1 + 0.24 * sum(height)),
        gridspec_kw={"height_ratios": height},
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for axes, measure in zip(grid, measures, strict=True):
        for axis, work in zip(axes, works, strict=True):
            _bars(axis, figures, measure, work)
    picture.suptitle(
        "Ratio to the floor (a bare Response, or one bare GET) or to the uncached stream, "
        f"logarithmic; {saved['date']}, load {saved['load'][0]:.1f}"
    )
    picture.savefig(path, dpi=80)
    plots.close(picture)
    return True


def pyplot() -> Any:
    """Return what draws without a screen."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def _names(figures: Sequence[Saved], measure: str) -> list[str]:
    return _unique(one["contender"] for one in figures if one["measure"] == measure)


def _bars(axis: Any, figures: Sequence[Saved], measure: str, work: str) -> None:
    """Draw a bar from 1 to its ratio for each contender."""
    names = _names(figures, measure)[::-1]
    ratios = {
        one["contender"]: one["ratio"]
        for one in figures
        if (one["measure"], one["work"]) == (measure, work)
    }
    for position, name in enumerate(names):
        if name not in ratios:
            continue
        colour = "tab:blue" if name.startswith("ours") else "tab:grey"
        axis.barh(position, ratios[name] - 1, left=1, color=colour)
        axis.text(ratios[name], position, f" {ratios[name]:.2f}", va="center", fontsize=7)
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.tick_params(axis="x", labelsize=7, which="both")
    axis.margins(x=0.25)
    axis.set_title(f"{measure}, {work}", fontsize=9)
