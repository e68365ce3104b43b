"""Downloads by curl and wget: in part, resumed where they broke off, or not at all if unchanged."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.support.http_client import fetch

CHUNK, CHUNKS = 100_000, 14


def whole() -> bytes:
    """The body. It is made for each test."""
    return b"".join(bytes([number]) * CHUNK for number in range(CHUNKS))


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="without curl")
needs_wget = pytest.mark.skipif(shutil.which("wget") is None, reason="without wget")


class Export:
    """A stream whose first run breaks in its midst, if it is to."""

    def __init__(self, *, breaks: bool) -> None:
        self.breaks = breaks
        self.runs = 0

    async def __call__(self, request: Request) -> Response:
        self.runs += 1

        async def chunks() -> AsyncIterator[bytes]:
            body = whole()
            for start in range(0, len(body), CHUNK):
                if self.breaks and self.runs == 1 and start == 6 * CHUNK:
                    raise ConnectionError("the database is gone")
                yield body[start : start + CHUNK]

        return StreamingResponse(chunks(), media_type="text/csv")

    def url(self, serve: Serve, cache: str) -> str:
        cached = stream_cached(ttl=600, cache=cache)(self.__call__)
        return f"http://127.0.0.1:{serve(Starlette(routes=[Route('/', cached)])).port}/"


def run(*command: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        timeout=30,
        check=False,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "no_proxy": "*"},
    )


CURL = ("curl", "-q", "-sS", "--noproxy", "*")
WGET = ("wget", "--no-config", "-q", "--no-proxy", "--tries=1")
RESUMED = {
    "curl": (CURL, ("-o",), ("-C", "-", "-o")),
    "wget": (WGET, ("-O",), ("-c", "-O")),
}


@pytest.mark.parametrize(
    "tool", [pytest.param("curl", marks=needs_curl), pytest.param("wget", marks=needs_wget)]
)
def test_a_download_that_breaks_is_resumed(
    serve: Serve, cache_url: str, tmp_path: Path, segments_read: list[int], tool: str
) -> None:
    export, file = Export(breaks=True), tmp_path / "export.csv"
    url = export.url(serve, cache_url)
    command, first, again = RESUMED[tool]
    assert run(*command, *first, file, url).returncode != 0
    assert 0 < file.stat().st_size <= 6 * CHUNK
    assert file.read_bytes() == whole()[: file.stat().st_size]
    # Another client has it stored.
    port = int(url.strip("/").rpartition(":")[2])
    assert fetch(port).body == whole()
    segments_read.clear()
    done = run(*command, *again, file, url)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == whole()
    assert export.runs == 2
    # Those of a memory are larger.
    assert 0 not in segments_read or cache_url.startswith("memory")


@needs_curl
def test_a_part_is_read_from_the_segments_that_have_it(
    serve: Serve, cache_url: str, segments_read: list[int]
) -> None:
    export = Export(breaks=False)
    url = export.url(serve, cache_url)
    assert run(*CURL, url).stdout == whole()
    segments_read.clear()
    assert run(*CURL, "-r", "700000-700009", url).stdout == whole()[700_000:700_010]
    assert len(segments_read) == 1
    assert run(*CURL, "-r", "-9", url).stdout == whole()[-9:]
    assert (len(segments_read), export.runs) == (2, 1)


@needs_curl
def test_what_has_not_changed_is_not_read(
    serve: Serve, cache_url: str, tmp_path: Path, segments_read: list[int]
) -> None:
    export, tag = Export(breaks=False), tmp_path / "etag"
    url = export.url(serve, cache_url)
    # The ETag is known once the body is.
    for _ in range(2):
        assert run(*CURL, "--etag-save", tag, url).stdout == whole()
    segments_read.clear()
    same = run(*CURL, "--etag-compare", tag, "-w", "%{http_code}", url)
    assert (same.stdout, segments_read, export.runs) == (b"304", [], 1)
