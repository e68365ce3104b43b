"""Lets ``python -m stream_cached.demo`` do what ``stream-cached demo`` does."""

import sys

from stream_cached.demo.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["demo", *sys.argv[1:]]))
