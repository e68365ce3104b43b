"""Wake-ups by Redis' publish and subscribe, over one connection per event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from stream_cached.connections.deadline import Deadline
from stream_cached.tasks import spawn

#: Seconds until a new subscription, or the end of the last one, takes effect.
_INTERVAL = 0.1


class Wakeups:
    """The subscriptions of one event loop, over one client that `connect` returns.

    If the server is unreachable or refuses SUBSCRIBE, no wake-up arrives: the subscribers poll."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._waiting: dict[bytes, set[RedisWakeup]] = {}
        self._listener: asyncio.Task[None] | None = None

    def subscribe(self, channel: bytes) -> RedisWakeup:
        """Return a subscription to the channel, which the caller has to close."""
        wakeup = RedisWakeup(self, channel)
        self._waiting.setdefault(channel, set()).add(wakeup)
        if self._listener is None or self._listener.done():
            # The listener outlives the first subscriber's request and must not inherit its
            # deadline.
            with Deadline(None):
                self._listener = spawn(self._listen())
        return wakeup

    def unsubscribe(self, wakeup: RedisWakeup) -> None:
        waiting = self._waiting.get(wakeup.channel, set())
        waiting.discard(wakeup)
        if not waiting:
            self._waiting.pop(wakeup.channel, None)

    async def _listen(self) -> None:
        client = self._connect()
        try:
            # After a failure, the subscribers poll.
            with contextlib.suppress(Exception):
                await self._pass_on(client.pubsub(ignore_subscribe_messages=True))
        finally:
            with contextlib.suppress(Exception):
                await client.aclose()

    async def _pass_on(self, pubsub: Any) -> None:
        known: set[bytes] = set()
        async with pubsub:
            try:
                while self._waiting:
                    wanted = set(self._waiting)
                    if wanted - known:
                        await pubsub.subscribe(*(wanted - known))
                    if known - wanted:
                        await pubsub.unsubscribe(*(known - wanted))
                    known = wanted
                    message = await pubsub.get_message(timeout=_INTERVAL)
                    if message is not None:
                        for wakeup in self._waiting.get(message["channel"], ()):
                            wakeup.wake()
            finally:
                # A listener that is closing does not notice new subscriptions.
                self._listener = None


class RedisWakeup:
    """A subscription to one channel."""

    def __init__(self, wakeups: Wakeups, channel: bytes) -> None:
        self.channel = channel
        self._wakeups = wakeups
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    def close(self) -> None:
        self._wakeups.unsubscribe(self)
