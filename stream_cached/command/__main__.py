"""Makes ``python -m stream_cached.command`` equivalent to ``stream-cached``."""

from stream_cached.command.main import main

if __name__ == "__main__":
    raise SystemExit(main())
