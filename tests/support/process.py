"""A server in a process of its own, which never outlives the tests.

The child runs in a session of its own, so that Ctrl-C in a terminal reaches pytest and
not the child. A watchdog (three words of sh) waits on a pipe whose other end only this
process holds: when this process is gone, even by SIGKILL, the pipe ends and the watchdog
kills the child and removes its directory.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"

_WATCHDOG = 'read _; kill -9 "$1"; rm -rf "$2"'

#: Below the range of outgoing connections: a client that polls a server that is away can't end up
#: connected to itself.
_PORTS = range(10_000, 32_000)

#: How many ports a process of the tests takes at once.
_BLOCK = 500

#: The locks of this process's blocks. They keep its ports from all other processes while it runs.
_locks: list[IO[str]] = []


@cache
def _own_ports() -> Iterator[int]:
    """The ports of this process, each of them once."""
    blocks = [range(start, start + _BLOCK) for start in _PORTS[::_BLOCK]]
    for block in random.sample(blocks, len(blocks)):
        with contextlib.suppress(OSError):
            lock = (Path(tempfile.gettempdir()) / f"stream-cached-ports-{block.start}").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
            else:
                _locks.append(lock)
                yield from block


def free_port() -> int:
    """A port that is free now, and is given to nothing else while the tests run.

    A server that is stopped and started again finds it still free. No port is given twice: what
    this process knows of a server, such as that it is away, goes by its address.
    """
    for port in _own_ports():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise RuntimeError(f"the tests have used up all ports of {_PORTS}")


class ServerProcess:
    """Starts `command()` and waits until `answers()`. A context manager."""

    end_by = signal.SIGTERM
    """How `close()` ends it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="stream-cached-"))
        self.log = self.directory / "log"
        self.environment = dict(os.environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._started_before = False
        atexit.register(self.close)

    def command(self) -> list[str]:
        """What to run; asked again for each start, `self.port` may have changed."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Is the server ready? Asked again and again while it starts; may raise OSError."""
        with self.connect(timeout=1):
            return True

    def connect(self, timeout: float = 5) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def output(self) -> str:
        """All that it has written, stdout and stderr, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_output(self, text: str, timeout: float = 10) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.output():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} is not in the output:\n{self.output()}")
            time.sleep(0.01)

    def start(self) -> None:
        """Start it, if it does not run, and wait until it answers. Keeps its port."""
        if self.running:
            return
        self.kill()  # clears away what is left of one that ended by itself
        while True:
            self._spawn()
            try:
                self._wait_until_ready()
            except RuntimeError as error:
                self.kill()
                if self._started_before or "in use" not in str(error):
                    raise
                self.port = free_port()  # somebody has taken it in the meantime
                self.log.unlink()
            else:
                self._started_before = True
                return

    def _spawn(self) -> None:
        self.directory.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self.environment,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["sh", "-c", _WATCHDOG, "sh", str(self._process.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_until_ready(self, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError):
                if self.answers() and self.running:
                    return
            if not self.running:
                raise RuntimeError(f"{type(self).__name__} did not start:\n{self.output()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} does not answer:\n{self.output()}")
            time.sleep(0.01)

    def stop(self, timeout: float = 10) -> None:
        """End it in an orderly way (SIGTERM); by force after `timeout`."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL, 10)

    def pause(self) -> None:
        """Let it hang: connections are accepted by the kernel, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        # Not all of its threads stop at once.
        for status in Path("/proc").glob(f"{self.pid}/task/*/stat"):
            deadline = time.monotonic() + 1
            while ") T " not in status.read_text() and time.monotonic() < deadline:
                time.sleep(0.001)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals, timeout: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)  # a paused one hears nothing but SIGKILL
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            # By SIGKILL, and before its pipe is closed: it must not act on a pid that is
            # free again.
            watchdog.kill()
            watchdog.wait(10)
            assert watchdog.stdin is not None
            watchdog.stdin.close()

    def close(self) -> None:
        """Stop it and remove its directory."""
        self._end(self.end_by, 10)
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
