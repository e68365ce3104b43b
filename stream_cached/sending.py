"""Answers that are being sent, and where that is reported."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, Protocol

from stream_cached.events import Answered, Outcome, Reporter, logs_answers

#: As ASGI has them.
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

#: The answers that come from an entry.
_OF_ENTRY = (Outcome.HIT, Outcome.STALE)


class Reports(Protocol):
    """Where it is reported how a call was answered."""

    def answered(self, event: Answered, *, size: int | None, seconds: float) -> None:
        """Report an answer."""
        ...


class Withheld:
    """Reports of answers that no client is given unless they are released."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._kept: list[tuple[Answered, int | None, float]] | None = []

    def answered(self, event: Answered, *, size: int | None, seconds: float) -> None:
        """Keep a report, or pass it on once reports are released."""
        if self._kept is None:
            self._reports.answered(event, size=size, seconds=seconds)
        else:
            self._kept.append((event, size, seconds))

    def release(self) -> None:
        """Pass on what was kept, and all that follows."""
        kept, self._kept = self._kept or [], None
        for event, size, seconds in kept:
            self._reports.answered(event, size=size, seconds=seconds)


class Ending(Protocol):
    """An answer that is being sent."""

    @property
    def watches(self) -> bool:
        """Whether it wants to see what is sent; see `through`."""
        ...

    def through(self, send: Send) -> Send:
        """Return a `send` that notes when the first byte is sent."""
        ...

    def sent(self, size: int | None) -> None:
        """Report the answer, now that so many bytes of a body are sent; None if that is unknown."""
        ...


class Sending:
    """An answer of which it is reported how it was given, and when."""

    __slots__ = ("_event", "_reports", "_started")

    watches = False

    def __init__(self, reports: Reports, event: Answered, started: float) -> None:
        self._reports = reports
        self._event = event
        self._started = started

    def through(self, send: Send) -> Send:
        return send

    def sent(self, size: int | None) -> None:
        seconds = time.monotonic() - self._started
        self._reports.answered(self._event, size=size, seconds=seconds)


class Looked(Protocol):
    """What is known of the call that is answered."""

    look_up: float | None
    saved: float | None
    run: int | None

    @property
    def endpoint(self) -> str: ...

    @property
    def shown_key(self) -> str: ...

    @property
    def store(self) -> str:
        """The address of its store, without credentials; empty for memory."""
        ...


def sending_of(
    reporter: Reporter, event: Answered, started: float, looked: Looked, reports: Reports
) -> Sending:
    """
    Return what reports an answer once it is sent.

    Args:
        reporter: The log of the endpoint.
        event: How the call was answered.
        started: When the call began, by the monotonic clock.
        looked: What is known of the call.
        reports: Where it is reported.
    """
    if reporter.hook is not None:
        return WatchedSending(reports, event, started, looked)
    if logs_answers():
        event = replace(event, key=looked.shown_key)
    return Sending(reports, event, started)


class WatchedSending(Sending):
    """An answer of which more than the log says is wanted."""

    __slots__ = ("_call", "_first")

    watches = True

    def __init__(self, reports: Reports, event: Answered, started: float, call: Looked) -> None:
        super().__init__(reports, event, started)
        self._call = call
        self._first: float | None = None

    def through(self, send: Send) -> Send:
        async def noting(message: Message) -> None:
            await send(message)
            # What comes later is given the first message in the middle of a body, too.
            if self._first is None and (message.get("body") or self._ends(message)):
                self._first = time.monotonic() - self._started

        return noting

    @staticmethod
    def _ends(message: Message) -> bool:
        return message["type"] == "http.response.body" and not message.get("more_body", False)

    def sent(self, size: int | None) -> None:
        call, event, look_up = self._call, self._event, self._call.look_up
        seconds = time.monotonic() - self._started
        event = replace(
            event,
            key=call.shown_key,
            size=size,
            seconds=seconds,
            endpoint=call.endpoint,
            first_byte=self._first,
            look_up=look_up,
            store="" if look_up is None else call.store,
            run=None if event.outcome in _OF_ENTRY else call.run,
            saved=call.saved if event.outcome in _OF_ENTRY else None,
        )
        self._reports.answered(event, size=size, seconds=seconds)
