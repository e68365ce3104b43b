"""The servers that run projects of Django, the real ones, each in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from tests.support.file_gates import FileGates
from tests.support.process import HOST, ServerProcess

_WSGI, _ASGI = "tests.django.servers:wsgi", "tests.django.servers:asgi"

#: The command line of each server, after Python.
_COMMANDS = {
    "wsgiref": ("-m", "tests.django.servers", "{port}"),
    "gunicorn-sync": ("-m", "gunicorn", _WSGI, "--bind", "{host}:{port}", "--workers", "{workers}"),
    "gunicorn-gthread": (
        *("-m", "gunicorn", _WSGI, "--bind", "{host}:{port}", "--workers", "{workers}"),
        *("--worker-class", "gthread", "--threads", "4"),
    ),
    "waitress": (
        *("-m", "waitress", "--listen={host}:{port}", "--threads=4", "--send-bytes=1", _WSGI),
    ),
    "uvicorn": (
        *("-m", "uvicorn", _ASGI, "--host", "{host}", "--port", "{port}", "--lifespan", "off"),
        *("--log-level", "warning", "--workers", "{workers}"),
    ),
    "daphne": ("-m", "daphne", "-b", "{host}", "-p", "{port}", "-v", "0", _ASGI),
}

SERVERS = tuple(_COMMANDS)


class DjangoServer(ServerProcess):
    """
    One server with the project of the tests.

    Args:
        kind: Which server.
        environment: What the settings of the project are made of.
        workers: How many processes it has, where it can have several.
        options: More words of its command line.
    """

    def __init__(
        self,
        kind: str,
        environment: Mapping[str, str] | None = None,
        *,
        workers: int = 1,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.gates = FileGates(self.directory)
        self._kind = kind
        self._workers = workers
        self._options = options
        self.environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "APP_DIRECTORY": str(self.directory),
            "APP_DATABASE": str(self.directory / "db.sqlite3"),
            **(environment or {}),
        }

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        words = {"host": HOST, "port": self.port, "workers": self._workers}
        command = [word.format(**words) for word in _COMMANDS[self._kind]]
        return [sys.executable, *command, *self._options]
