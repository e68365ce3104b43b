"""The command ``stream-cached``."""

import argparse
import sys
from collections.abc import Sequence

from stream_cached.demo import run
from stream_cached.demo.processes import UnableError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 as promised, 1 not so, 2 can't be run."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.port and not options.serve:
        parser.error("--port goes with --serve")
    try:
        if options.serve:
            return run.serve(options.cache, options.port)
        return run.compare(options.cache)
    except UnableError as exc:
        print(f"stream-cached demo: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstream-cached demo: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stream-cached", description="Caching of streamed responses for Starlette and FastAPI."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="ask for real streams twice, and show what the cache made of it",
        description="Starts a server on this machine, asks it for three real streams, twice each, "
        "over HTTP, and compares the answers. With a Redis, two server processes share it: the "
        "first request goes to one, the second to the other.",
    )
    demo.add_argument(
        "--cache",
        default="memory://",
        metavar="URL",
        help="memory:// (the default) or redis://host:port/0?namespace=name",
    )
    demo.add_argument(
        "--serve", action="store_true", help="stay up, to be tried with curl, until Ctrl-C"
    )
    demo.add_argument(
        "--port",
        type=int,
        default=0,
        help="with --serve: listen on this port, a second server on the next (default: free ones)",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
