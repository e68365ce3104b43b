"""
Run the benchmarks: `make bench`, or `python -m benchmarks`.

The server is uvicorn (httptools, uvloop) in a process of its own, the Redis a real one, everything
on the loopback; what is measured, and how, stands in the modules. Names of parts, and `--quick` for
a tenth of the rounds, may be given (`make bench ARGS="outage --quick"`).
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version

from benchmarks import hits, keys, outage, round_trips, runs, stampede, streams, waits
from tests.support.servers import ServerMissingError, find_redis

PARTS: dict[str, Callable[[float], None]] = {
    "streams": streams.main,
    "hits": hits.main,
    "round-trips": lambda share: round_trips.main(),
    "outage": outage.main,
    "keys": lambda share: keys.main(),
    "runs": runs.main,
    "stampede": stampede.main,
    "waits": lambda share: waits.main(),
}

PACKAGES = (
    *("stream-cached", "aiocache", "cashews", "redis", "hiredis", "msgpack"),
    *("starlette", "uvicorn", "httptools", "uvloop"),
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}, only {', '.join(PARTS)}")
    return arguments


def _redis_version() -> str:
    try:
        said = subprocess.run([find_redis(), "--version"], capture_output=True, text=True)
    except ServerMissingError as exc:
        raise SystemExit(str(exc)) from exc
    return said.stdout.partition(" sha=")[0].strip()


def _print_head() -> None:
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, ", end="")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {_redis_version()}")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    print("one client, the ways take turns; medians, and ratios to the uncached stream beside them")


def main() -> None:
    """Measure what was asked for, or everything."""
    arguments = _arguments()
    started = time.monotonic()
    _print_head()
    for part, run in PARTS.items():
        if part in arguments.parts or not arguments.parts:
            run(0.1 if arguments.quick else 1.0)
    print(f"\n{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
