"""What `on_complete=` is called with, once a response is stored."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stream_cached.entries.body import WINDOW
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError
from stream_cached.events import Reporter
from stream_cached.format.records import Entry
from stream_cached.format.validation import UnsoundError
from stream_cached.keys.digest import digest
from stream_cached.tasks import spawn


class CompletedBody:
    """
    The stored body, read in chunks: `async for`, or `for` in a thread that is not the loop's.

    Raises:
        StoreError: While it is read: the store fails, or the body was deleted or damaged.
    """

    def __init__(self, resource: Resource, entry: Entry) -> None:
        self._resource = resource
        self._entry = entry
        self._loop = asyncio.get_running_loop()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        entry = self._entry
        if not entry.segments:
            yield entry.body
            return
        body, count = self._resource.records.body_of(entry), len(entry.segments)
        try:
            for start in range(0, count, WINDOW):
                window = range(start, min(start + WINDOW, count))
                for segment in await body.read(window, entry.segments):
                    yield segment.payload
        except UnsoundError as exc:
            raise StoreError(f"the stored body was deleted or damaged: {exc}") from exc
        finally:
            body.close()

    def __iter__(self) -> Iterator[bytes]:
        chunks = aiter(self)

        async def following() -> bytes | None:
            return await anext(chunks, None)

        while (chunk := self._in_loop(following())) is not None:
            yield chunk

    def _in_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


@dataclass(frozen=True, slots=True)
class Completed:
    """A response that was stored."""

    key: str
    """A digest of its key."""
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """Its headers, as they are stored."""
    length: int
    """Bytes of the body."""
    digest: str
    """The SHA-256 of the body, in hexadecimal digits."""
    body: CompletedBody
    """The body. It can be read as long as it is stored, any number of times."""


OnComplete = Callable[[Completed], object]


def call_on_complete(
    function: OnComplete, resource: Resource, entry: Entry, sha256: str, reporter: Reporter
) -> None:
    """Call a function with what was stored, apart from the run. What it raises is in the log."""
    completed = Completed(
        digest(resource.key),
        entry.status,
        entry.headers,
        entry.length,
        sha256,
        CompletedBody(resource, entry),
    )
    spawn(_called(function, completed, reporter))


async def _called(function: OnComplete, completed: Completed, reporter: Reporter) -> None:
    try:
        if _is_async(function):
            await _awaited(function(completed))
        else:
            await asyncio.to_thread(function, completed)
    except Exception as exc:
        reporter.on_complete_failed(exc)


def _is_async(function: Any) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004
    inner = getattr(function, "func", function)
    return any(map(inspect.iscoroutinefunction, (function, inner, call)))


async def _awaited(result: Any) -> None:
    await result
