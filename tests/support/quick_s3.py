"""As much of S3 as our bodies need, quick and small: moto takes minutes for a gigabyte, and 140 MB.

`python -m tests.support.quick_s3 PORT DIRECTORY` serves; `QuickS3` runs that in a process of its
own. A part is a file, and an object the list of its parts.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import sys
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.process import HOST, ServerProcess
from tests.support.servers import S3Server

_objects: dict[str, list[Path]] = {}
_uploads: dict[str, tuple[str, dict[int, Path]]] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory = Path()

    @property
    def key(self) -> str:
        return urlsplit(self.path).path.partition("/")[2].partition("/")[2]

    @property
    def query(self) -> dict[str, str]:
        found = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in found.items()}

    def handle(self) -> None:
        # A client that leaves, or that is cut off by a test, is no error.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def answer(self, body: str = "", status: int = 200, **headers: str) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {"ETag": '"etag"', **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def missing(self, code: str = "NoSuchKey") -> None:
        self.answer(f"<Error><Code>{code}</Code></Error>", 404)

    def received(self) -> Path:
        """Write what comes to a file."""
        path = self.directory / secrets.token_hex(16)
        left = int(self.headers["Content-Length"])
        with path.open("xb") as file:
            while left and (data := self.rfile.read(min(left, 1 << 20))):
                left -= file.write(data)
        return path

    def do_PUT(self) -> None:
        path = self.received()
        if "uploadId" in self.query:
            if self.query["uploadId"] not in _uploads:
                return self.missing("NoSuchUpload")
            _uploads[self.query["uploadId"]][1][int(self.query["partNumber"])] = path
        elif self.key:
            _objects[self.key] = [path]
        self.answer()

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        if "uploads" in self.query:
            name = secrets.token_hex(8)
            _uploads[name] = (self.key, {})
            self.answer(f"<R><UploadId>{name}</UploadId></R>")
        elif "uploadId" in self.query:
            if self.query["uploadId"] not in _uploads:
                return self.missing("NoSuchUpload")
            _, parts = _uploads.pop(self.query["uploadId"])
            _objects[self.key] = [parts[number] for number in sorted(parts)]
            self.answer("<R><ETag>etag</ETag></R>")
        elif self.path == "/moto-api/reset":
            _objects.clear()
            _uploads.clear()
            for path in self.directory.iterdir():
                path.unlink(missing_ok=True)
            self.answer()
        else:
            keys = re.findall("<Key>([^<]*)", text)
            for key in keys:
                _objects.pop(key, None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self.answer(f"<DeleteResult>{deleted}</DeleteResult>")

    def do_DELETE(self) -> None:
        if "uploadId" in self.query:
            _uploads.pop(self.query["uploadId"], None)
        else:
            _objects.pop(self.key, None)
        self.answer()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self.key:
            return self.answer(_uploads_listed() if "uploads" in self.query else _objects_listed())
        parts = _objects.get(self.key)
        if parts is None:
            return self.missing()
        sizes = [path.stat().st_size for path in parts]
        total = sum(sizes)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert asked is not None
        start, end = int(asked[1]), min(int(asked[2] or total), total - 1)
        if start >= total and "Range" in self.headers:
            return self.answer("<Error><Code>InvalidRange</Code></Error>", 416)
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.send_header("Last-Modified", formatdate(_written(parts), usegmt=True))
        self.send_header("ETag", '"etag"')
        self.end_headers()
        left = end + 1 - start if self.command == "GET" else 0
        for path, size in zip(parts, sizes, strict=True):
            if start < size and left:
                with path.open("rb") as file:
                    self.connection.sendfile(file, start, min(left, size - start))
                left -= min(left, size - start)
            start = max(0, start - size)

    def log_message(self, format: str, *args: object) -> None:
        return


def _written(parts: list[Path]) -> float:
    return max(path.stat().st_mtime for path in parts)


def _objects_listed() -> str:
    """All objects, on one page."""
    listed = [
        f"<Contents><Key>{key}</Key>"
        f"<LastModified>{datetime.fromtimestamp(_written(parts), UTC):%Y-%m-%dT%H:%M:%S.000Z}"
        f"</LastModified><ETag>etag</ETag><Size>{sum(path.stat().st_size for path in parts)}</Size>"
        "</Contents>"
        for key, parts in sorted(_objects.items())
    ]
    return (
        f"<ListBucketResult><KeyCount>{len(listed)}</KeyCount><IsTruncated>false</IsTruncated>"
        f"{''.join(listed)}</ListBucketResult>"
    )


def _uploads_listed() -> str:
    keys = [f"<Upload><Key>{key}</Key></Upload>" for key, _ in list(_uploads.values())]
    return f"<ListMultipartUploadsResult>{''.join(keys)}</ListMultipartUploadsResult>"


class QuickS3(S3Server):
    """The server."""

    def command(self) -> list[str]:
        objects = self.directory / "objects"
        shutil.rmtree(objects, ignore_errors=True)
        objects.mkdir()
        return [sys.executable, "-m", "tests.support.quick_s3", str(self.port), str(objects)]

    def received(self) -> int:
        """The bytes of all parts so far."""
        return sum(path.stat().st_size for path in (self.directory / "objects").iterdir())

    def answers(self) -> bool:
        return ServerProcess.answers(self)


if __name__ == "__main__":
    _Handler.directory = Path(sys.argv[2])
    ThreadingHTTPServer((HOST, int(sys.argv[1])), _Handler).serve_forever()
