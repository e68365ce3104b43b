"""Figures, and what they are computed from: rounds in which the contenders take turns."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """
    One figure.

    Args:
        part: The part of the benchmarks that it is of.
        measure: What was measured: one table of its own.
        contender: The contender that was measured: a line of the table.
        work: At what: a column.
        unit: "s", "1/s", "MiB", "x" (a ratio in itself) or "" (a number).
        median: The median of the rounds.
        p90: 90 of 100 were not worse.
        p99: 99 of 100 were not worse.
        ratio: To another contender: the median of the ratios of each round.
        to: The name of that one.
        rounds: How many there were.
        flaw: What was wrong with the answers, instead of all that.
    """

    part: str
    measure: str
    contender: str
    work: str
    unit: str
    median: float = 0.0
    p90: float | None = None
    p99: float | None = None
    ratio: float | None = None
    to: str | None = None
    rounds: int = 1
    flaw: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what it is saved as."""
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in dataclasses.asdict(self).items()
            if value is not None and (key, value) != ("flaw", "")
        }


def percentile(values: Sequence[float], percent: float, *, best_is_high: bool = False) -> float:
    """Return the value that so many percent are not worse than."""
    ordered = sorted(values, reverse=best_is_high)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass
class Series:
    """What a contender took, round by round: of each round its number, and its values."""

    rounds: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    flaw: str = ""

    def add(self, number: int, values: Sequence[float]) -> None:
        """Take the values of a round."""
        self.rounds.setdefault(number, []).extend(values)

    @property
    def values(self) -> list[float]:
        """All of them."""
        return [value for values in self.rounds.values() for value in values]

    def medians(self) -> dict[int, float]:
        """Return the median of each round."""
        return {number: statistics.median(values) for number, values in self.rounds.items()}

    def ratio_to(self, other: Series) -> float | None:
        """Return the median of the ratios of those rounds that both took part in."""
        mine, others = self.medians(), other.medians()
        ratios = [mine[number] / others[number] for number in mine if number in others]
        return statistics.median(ratios) if ratios else None


def figures_of(
    series: Mapping[str, Series],
    references: Mapping[str, str],
    *,
    part: str,
    measure: str,
    work: str,
    unit: str = "s",
) -> list[Figure]:
    """Return a figure for each contender, with the ratio to its reference where it has one."""
    made = []
    for name, one in series.items():
        figure = Figure(part, measure, name, work, unit)
        if one.flaw or not one.rounds:
            made.append(dataclasses.replace(figure, flaw=one.flaw or "not measured", rounds=0))
            continue
        values, best_is_high = one.values, unit == "1/s"
        has_percentiles = unit != ""  # not of a number of runs
        to = references.get(name)
        reference = series.get(to) if to is not None else None
        ratio = one.ratio_to(reference) if reference is not None and not reference.flaw else None
        made.append(
            dataclasses.replace(
                figure,
                median=statistics.median(values),
                p90=percentile(values, 90, best_is_high=best_is_high) if has_percentiles else None,
                p99=percentile(values, 99, best_is_high=best_is_high) if has_percentiles else None,
                ratio=ratio,
                to=to if ratio is not None else None,
                rounds=len(one.rounds),
            )
        )
    return made
