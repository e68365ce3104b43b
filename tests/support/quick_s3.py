"""As much of S3 as large objects need, and quick: moto takes minutes for a gigabyte.

`python -m tests.support.quick_s3 PORT DIRECTORY` serves; `QuickS3` runs that in a process of its
own. A part is a file, and an object the list of its parts.
"""

from __future__ import annotations

import re
import secrets
import shutil
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.process import HOST, ServerProcess
from tests.support.servers import S3Server

_objects: dict[str, list[Path]] = {}
_uploads: dict[str, dict[int, Path]] = {}


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

    def answer(self, body: str = "", status: int = 200, **headers: str) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {"ETag": '"etag"', **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

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
            _uploads[self.query["uploadId"]][int(self.query["partNumber"])] = path
        else:
            _objects[self.key] = [path]
        self.answer()

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        if "uploads" in self.query:
            name = str(len(_uploads))
            _uploads[name] = {}
            self.answer(f"<R><UploadId>{name}</UploadId></R>")
        elif "uploadId" in self.query:
            parts = _uploads.pop(self.query["uploadId"])
            _objects[self.key] = [parts[number] for number in sorted(parts)]
            self.answer("<R><ETag>etag</ETag></R>")
        else:
            for key in re.findall("<Key>([^<]*)", text):
                _objects.pop(key, None)
            self.answer("<DeleteResult/>")

    def do_GET(self) -> None:
        parts = _objects.get(self.key)
        if parts is None:
            return self.answer("<Error><Code>NoSuchKey</Code></Error>", 404)
        sizes = [path.stat().st_size for path in parts]
        total = sum(sizes)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert asked is not None
        start, end = int(asked[1]), min(int(asked[2] or total), total - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.send_header("ETag", '"etag"')
        self.end_headers()
        left = end + 1 - start
        for path, size in zip(parts, sizes, strict=True):
            if start < size and left:
                with path.open("rb") as file:
                    self.connection.sendfile(file, start, min(left, size - start))
                left -= min(left, size - start)
            start = max(0, start - size)

    def log_message(self, format: str, *args: object) -> None:
        return


class QuickS3(S3Server):
    """The server. It lists nothing."""

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
