"""The demo's server processes."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HOST = "127.0.0.1"

_STOP_TIMEOUT = 5.0


class UnableError(Exception):
    """The demo can't run on this machine; the message contains the fix."""


@dataclass(frozen=True)
class Server:
    """A server that runs and listens."""

    name: str
    host: str
    port: int
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self.process.pid

    @property
    def url(self) -> str:
        """The server's address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@contextlib.contextmanager
def running(
    cache: str, bodies: str, ports: Sequence[int], host: str = HOST
) -> Iterator[list[Server]]:
    """Run a server on each port (0: a free port) until the context ends."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_process(cache, bodies, host, port)) for port in ports]
        yield [
            Server(name, host, _port(process), process)
            for name, process in zip("AB", started, strict=False)
        ]


@contextlib.contextmanager
def _process(cache: str, bodies: str, host: str, port: int) -> Iterator[subprocess.Popen[str]]:
    # A new session keeps Ctrl-C from the server. The server ends when its standard input closes,
    # also if this process is killed.
    process = subprocess.Popen(
        [sys.executable, "-m", "stream_cached.demo.server", cache, bodies, host, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        try:
            process.communicate(timeout=_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise UnableError("a server process did not start: see its error above")
    return int(line)
