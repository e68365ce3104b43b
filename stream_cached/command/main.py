"""The command line ``stream-cached``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from stream_cached.command import doctor, probe
from stream_cached.demo import cli as demo


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="stream-cached",
        description="Caching of streamed responses for Starlette, FastAPI and Django.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    demo.add_parser(commands)
    doctor.add_parser(commands)
    probe.add_parser(commands)
    options = parser.parse_args(argv)
    status: int = options.run(options)
    return status
