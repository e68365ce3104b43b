"""Finds the response for a pointer: that of a stored entry, or that of a run to join."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stream_cached.cashews.entries import EntryRef
from stream_cached.cashews.recording import lookup_call, recording_of
from stream_cached.cashews.shared import HeadSnapshot, SharedStream, is_stream, share
from stream_cached.engine.service import Service
from stream_cached.errors import BrokenStreamError


async def find(refs: Sequence[EntryRef], service: Service) -> Response | None:
    """Return a response of the first entry that exists, or else of the first run to join."""
    # The recordings are kept from here on: a run that ends during the look-up can still be joined.
    recordings = [recording_of(ref) for ref in refs]
    call = lookup_call(service)
    for ref in refs if len(refs) == 1 else await refs_with_entries(refs):
        response = await ref.response(call)
        if response is not None:
            return response
    for recording in recordings:
        response = None if recording is None else await recording.join()
        if response is not None:
            return response
    return None


async def refs_with_entries(refs: Sequence[EntryRef]) -> list[EntryRef]:
    """Return the references whose entries exist."""
    exist = await asyncio.gather(*[ref.has_entry() for ref in refs])
    return [ref for ref, exists in zip(refs, exist, strict=True) if exists]


async def find_to_share(refs: Sequence[EntryRef], service: Service) -> Response | None:
    """Return what `find` returns; a stream is for any number of callers."""
    response = await find(refs, service)
    if response is not None and is_stream(response):
        share(response, StoredStream(response, refs, service))
    return response


class StoredStream:
    """The sender of a stream that was found: each caller after the first gets another response."""

    def __init__(self, response: Response, refs: Sequence[EntryRef], service: Service) -> None:
        self._type = type(response)
        self._head = HeadSnapshot(response)
        self._refs = refs
        self._service = service
        self._is_taken = self._is_sent = False

    async def take(self, response: Response) -> Response | None:
        """Return `response` once, then other responses; None if the entry is gone."""
        if not self._is_taken:
            self._is_taken = True
            return response
        return await find_to_share(self._refs, self._service)

    async def send(
        self, response: SharedStream, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the stream to one caller, with the changes made on the caller's response."""
        changed = cast(Response, response)
        if not self._is_sent:
            self._is_sent = True
            await self._type.__call__(changed, scope, receive, send)
            return
        other = await find(self._refs, self._service)
        if other is None:
            raise BrokenStreamError("this stream was sent to another caller, and its entry is gone")
        self._head.apply_changes(changed, other)
        await other(scope, receive, send)
