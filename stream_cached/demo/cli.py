"""The command ``stream-cached demo``."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from stream_cached.demo import run
from stream_cached.demo.processes import HOST, UnableError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo alone; return the exit status."""
    parser = argparse.ArgumentParser(prog="stream-cached")
    add_parser(parser.add_subparsers(required=True, metavar="command"))
    options = parser.parse_args(argv)
    status: int = options.run(options)
    return status


def run_demo(options: argparse.Namespace) -> int:
    """Return 0 if all answers were right, 1 if not, 2 if it can't run."""
    if (options.port or options.host) and not options.serve:
        options.parser.error("--host and --port need --serve")
    try:
        if options.serve:
            return run.serve(options.cache, options.bodies, options.host or HOST, options.port)
        return run.compare(options.cache, options.bodies)
    except UnableError as exc:
        print(f"stream-cached demo: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstream-cached demo: interrupted", file=sys.stderr)
        return 130


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    demo: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="request three streams twice and compare the answers",
        description="Starts a server on this machine, requests three streams over HTTP, each "
        "twice, and compares the answers. With Redis, two server processes share the cache: the "
        "first request goes to one process, the second to the other.",
    )
    demo.add_argument(
        "--cache",
        default="memory://",
        metavar="URL",
        help="memory:// (the default) or redis://host:port/0?namespace=name",
    )
    demo.add_argument(
        "--bodies",
        default="",
        metavar="URL",
        help="where large bodies are kept beside it: file:///directory or s3://bucket/prefix",
    )
    demo.add_argument(
        "--serve",
        action="store_true",
        help="show a page with the viewers of one stream, and answer curl, until Ctrl-C",
    )
    demo.add_argument(
        "--host",
        default="",
        help=f"with --serve: the address to listen on (default: {HOST}, this machine alone)",
    )
    demo.add_argument(
        "--port",
        type=int,
        default=0,
        help="with --serve: the port of the first server; the second server listens on the next "
        "port (default: free ports)",
    )
    demo.set_defaults(run=run_demo, parser=demo)


if __name__ == "__main__":
    raise SystemExit(main())
