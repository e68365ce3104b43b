"""One server process of the demo: ``python -m stream_cached.demo.server CACHE PORT``.

It prints the port that it listens on, and ends when its standard input does: with whoever started
it, however that one ended.
"""

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from stream_cached.demo import data
from stream_cached.demo.app import create_app
from stream_cached.errors import ConfigurationError

HOST = "127.0.0.1"


def main(arguments: Sequence[str]) -> None:
    """Serve the demo's application with the given cache URL on the given port (0: a free one)."""
    cache, port = arguments
    with (
        tempfile.TemporaryDirectory(prefix="stream-cached-demo-") as folder,
        socket.create_server((HOST, int(port))) as listener,
    ):
        database = Path(folder, "lines.sqlite")
        data.build_database(database)
        config = uvicorn.Config(
            create_app(cache, database), log_level="warning", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])


def _stop_with_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 1):
        pass
    server.should_exit = True


if __name__ == "__main__":
    # uvicorn raises the signal again once it has stopped; the folder must go nevertheless.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        pass
    except (ConfigurationError, OSError, OverflowError) as exc:
        raise SystemExit(f"stream-cached demo: {exc}") from exc
