"""One server process of the demo: ``python -m stream_cached.demo.server CACHE BODIES HOST PORT``.

It prints its port, and ends when its standard input closes, so that it never outlives its parent
process.
"""

import logging
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


def main(arguments: Sequence[str]) -> None:
    """Serve the demo's application with two URLs on an address and a port (0: a free port)."""
    cache, bodies, host, port = arguments
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        tempfile.TemporaryDirectory(prefix="stream-cached-demo-") as folder,
        socket.create_server((host, int(port)), family=family) as listener,
    ):
        database = Path(folder, "lines.sqlite")
        data.build_database(database)
        app = create_app(cache, bodies)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])


def _stop_with_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 1):
        pass
    # A stream that this cuts off is no error worth a traceback.
    logging.getLogger("uvicorn.error").disabled = True
    server.should_exit = True


if __name__ == "__main__":
    # uvicorn raises the signal again after its shutdown. As a KeyboardInterrupt, the signal still
    # lets the temporary folder be deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        pass
    except (ConfigurationError, OSError, OverflowError) as exc:
        raise SystemExit(f"stream-cached demo: {exc}") from exc
