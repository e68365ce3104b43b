"""
Run the benchmarks: `make bench`, or `python -m benchmarks`. README.md says what is measured.

`make bench ARGS="hits misses"` chooses parts, `ARGS=--full` measures longer and more, and
`--show FILE` makes the table and the plot from what an earlier run has saved.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import (
    cpu,
    elsewhere,
    endpoints,
    growth,
    hits,
    keys,
    large,
    misses,
    outage,
    report,
    round_trips,
    runs,
    stampede,
    waits,
    zipf,
)
from benchmarks.bench import SCALES, Bench
from benchmarks.contenders import CONTENDERS
from tests.support.process import ROOT
from tests.support.servers import ServerMissingError, find_memcached, find_redis

#: In the order in which they run: when the time is over, the last ones are left out.
PARTS: dict[str, Callable[[Bench], None]] = {
    "hits": hits.run,
    "misses": misses.run,
    "cpu": cpu.run,
    "keys": keys.run,
    "stampede": stampede.run,
    "round-trips": round_trips.run,
    "endpoints": endpoints.run,
    "growth": growth.run,
    "large": large.run,
    "elsewhere": elsewhere.run,
    "zipf": zipf.run,
    "runs": runs.run,
    "outage": outage.run,
    "waits": waits.run,
}

#: They take long, for what they measure: part of a full run, or of one that names them.
SELDOM = {"elsewhere", "outage", "waits"}

PACKAGES = (
    *("stream-cached", "aiocache", "cashews", "fastapi-cache2", "hishel", "redis", "hiredis"),
    *(
        "aiomcache",
        "msgpack",
        "xxhash",
        "zlib-ng",
        "starlette",
        "fastapi",
        "uvicorn",
        "httptools",
        "uvloop",
    ),
)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    scale = parser.add_mutually_exclusive_group()
    for name, text in (("full", "longer, and every part"), ("tiny", "only see that it runs")):
        scale.add_argument(
            f"--{name}",
            dest="scale",
            action="store_const",
            const=name,
            default="default",
            help=text,
        )
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "benchmarks", help="a folder")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: show this JSON")
    arguments = parser.parse_args(given)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}, only {', '.join(PARTS)}")
    return arguments


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name, find in (("Redis", find_redis), ("memcached", find_memcached)):
        with contextlib.suppress(ServerMissingError):
            said = subprocess.run([find(), "--version"], capture_output=True, text=True).stdout
            found[name] = next(
                word.removeprefix("v=") for word in said.split() if word[-1].isdigit()
            )
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    with contextlib.suppress(OSError):
        git = ("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
        if commit := subprocess.run(git, capture_output=True, text=True).stdout.strip():
            found["commit"] = commit
    return found


def _machine() -> str:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if "model name" in line), model)
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {model}"


def measure(arguments: argparse.Namespace) -> report.Saved:
    """Measure what was asked for, or everything."""
    began, load = time.monotonic(), os.getloadavg()[0]
    wanted = arguments.parts or [
        part for part in PARTS if part not in SELDOM or arguments.scale == "full"
    ]
    with Bench(SCALES[arguments.scale]) as bench:
        for part in (part for part in PARTS if part in wanted):
            started = time.monotonic()
            if started - began > bench.scale.limit:
                bench.say(f"without {part}: {bench.scale.limit:,.0f} s are over")
                continue
            PARTS[part](bench)
            bench.say(f"{part}: {time.monotonic() - started:.0f} s")
        figures = [figure.as_json() for figure in bench.figures]
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "scale": arguments.scale,
        "seconds": round(time.monotonic() - began, 1),
        "machine": _machine(),
        "versions": _versions(),
        "load": [load, os.getloadavg()[0]],
        "figures": figures,
    }


def wrong_in(saved: report.Saved) -> list[str]:
    """Return who must be right and was not."""
    flawed = {figure["contender"] for figure in saved["figures"] if "flaw" in figure}
    return sorted(name for name in flawed if name not in CONTENDERS or not CONTENDERS[name].fails)


def main(given: list[str] | None = None) -> None:
    """Measure and save, or read what was saved; then show it."""
    arguments = _arguments(given)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.show:
        saved = json.loads(arguments.show.read_text(encoding="utf-8"))
    else:
        saved = measure(arguments)
        (arguments.out / "figures.json").write_text(json.dumps(saved, indent=1) + "\n")
    table = report.table(saved)
    (arguments.out / "figures.md").write_text(table, encoding="utf-8")
    print(table)
    try:
        if not report.plot(saved, arguments.out / "figures.png"):
            print("no plot: neither hits nor misses were measured")
    except ModuleNotFoundError as exc:
        if exc.name != "matplotlib":
            raise
        print("no plot: matplotlib is not installed")
    print(f"written to {arguments.out}")
    if wrong := wrong_in(saved):
        raise SystemExit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
