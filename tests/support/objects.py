"""What stands in a store of bodies: a test looks at it, and damages it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import obstore

from stream_cached.bodies.objects import ObjectBodies
from stream_cached.bodies.urls import bodies_from_url
from tests.support.servers import S3Server


class Objects(Protocol):
    """The objects of a store, by name."""

    @property
    def url(self) -> str: ...

    def names(self) -> list[str]: ...

    def get(self, name: str) -> bytes: ...

    def put(self, name: str, value: bytes | None) -> None:
        """Replace an object; None deletes it."""

    def unfinished(self) -> list[str]:
        """What is left of uploads that have no end."""


class FileObjects:
    """Those in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = f"file://{root}"

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self._root)) for path in self._root.glob("??/*"))

    def get(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def put(self, name: str, value: bytes | None) -> None:
        path = self._root / name
        path.unlink() if value is None else path.write_bytes(value)

    def unfinished(self) -> list[str]:
        return [path.name for path in self._root.glob("unfinished/*")]


class S3Objects:
    """Those in the bucket of a server."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self.url = server.url()
        bodies = bodies_from_url(self.url)
        assert isinstance(bodies, ObjectBodies)
        self._bucket = bodies._writes

    def names(self) -> list[str]:
        return sorted(each["path"] for page in obstore.list(self._bucket) for each in page)

    def get(self, name: str) -> bytes:
        return bytes(obstore.get(self._bucket, name).bytes())

    def put(self, name: str, value: bytes | None) -> None:
        if value is None:
            obstore.delete(self._bucket, name)
        else:
            obstore.put(self._bucket, name, value)

    def unfinished(self) -> list[str]:
        return self._server.uploads()
