"""Makes ``python -m stream_cached.demo`` equivalent to ``stream-cached demo``."""

import sys

from stream_cached.demo.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["demo", *sys.argv[1:]]))
