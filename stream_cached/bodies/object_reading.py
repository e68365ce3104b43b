"""One object that is read by one request, with one piece ahead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from stream_cached.bodies.futures import begun
from stream_cached.errors import StoreError


class ObjectReading:
    """
    An answer of a store, as it comes.

    Args:
        stream: Its pieces; None where there are none.
        size: How many bytes they have to have.
        timeout: Seconds from one piece to the next.
        failure: Makes the error of what obstore raises.
    """

    def __init__(
        self,
        stream: AsyncIterator[bytes] | None,
        size: int,
        timeout: float,
        failure: Callable[[str, Exception], StoreError],
    ) -> None:
        self._stream = stream
        self._left = size
        self._timeout = timeout
        self._failure = failure
        self._held = deque[bytes]()
        self._size = 0
        self._ahead: asyncio.Future[bytes] | None = None
        self._begin()

    async def read(self, size: int) -> bytes:
        while self._size < size and self._left:
            piece = await self._piece()
            self._held.append(piece)
            self._size += len(piece)
            self._left -= len(piece)
            self._begin()
        return self._taken(size)

    async def close(self) -> None:
        self._stream = None
        self._held.clear()
        self._size = 0
        if self._ahead is not None:
            self._ahead.cancel()

    def _begin(self) -> None:
        """Ask for the next piece, if there is one."""
        self._ahead = None
        if self._left and self._stream is not None:
            self._ahead = begun(anext(self._stream))

    async def _piece(self) -> bytes:
        ahead = self._ahead
        if ahead is None or self._stream is None:
            raise StoreError("read: the object is closed, or has failed")
        # It goes on where the reader is cancelled.
        await asyncio.wait((ahead,), timeout=self._timeout)
        if not ahead.done():
            await self.close()
            raise StoreError(f"read: nothing came in {self._timeout:g} s")
        if ahead.cancelled():
            raise StoreError("read: the object was closed meanwhile")
        try:
            piece = ahead.result()
        except StopAsyncIteration:
            piece = b""
        except Exception as exc:
            await self.close()
            raise self._failure("read", exc) from exc
        if not 0 < len(piece) <= self._left:
            await self.close()
            raise StoreError("read: the object has another size than the store had said")
        return piece

    def _taken(self, size: int) -> bytes:
        """Take bytes out of what is held."""
        pieces = []
        left = size
        while left and self._held:
            piece = self._held.popleft()
            if len(piece) > left:
                self._held.appendleft(piece[left:])
                piece = piece[:left]
            pieces.append(piece)
            left -= len(piece)
        self._size -= size - left
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
