"""Being woken by Redis' publish and subscribe: one connection for all who wait in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from stream_cached.connections.deadline import Deadline
from stream_cached.tasks import spawn

#: Seconds after which somebody new, or nobody any more, is taken into account.
_TURN = 0.1


class Wakeups:
    """
    Who waits for which channel.

    Where the server can't be reached, or does not let us subscribe, nobody is woken: whoever waits
    looks for himself then.

    Args:
        connect: Returns a client of its own, which is closed when nobody waits any more.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._waiting: dict[bytes, set[RedisWakeup]] = {}
        self._listener: asyncio.Task[None] | None = None

    def subscribe(self, channel: bytes) -> RedisWakeup:
        """Return something to wait with for what is published in a channel; it has to be closed."""
        wakeup = RedisWakeup(self, channel)
        self._waiting.setdefault(channel, set()).add(wakeup)
        if self._listener is None or self._listener.done():
            # It is not part of the request that waits first.
            with Deadline(None):
                self._listener = spawn(self._listen())
        return wakeup

    def unsubscribe(self, wakeup: RedisWakeup) -> None:
        """Forget one who waits."""
        waiting = self._waiting.get(wakeup.channel, set())
        waiting.discard(wakeup)
        if not waiting:
            self._waiting.pop(wakeup.channel, None)

    async def _listen(self) -> None:
        client = self._connect()
        try:
            # Whatever goes wrong, those who wait look for themselves.
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
                    message = await pubsub.get_message(timeout=_TURN)
                    if message is not None:
                        for wakeup in self._waiting.get(message["channel"], ()):
                            wakeup.wake()
            finally:
                # While it closes, it does not see who comes.
                self._listener = None


class RedisWakeup:
    """One who waits for a channel."""

    def __init__(self, wakeups: Wakeups, channel: bytes) -> None:
        self.channel = channel
        self._wakeups = wakeups
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Say that there is something new."""
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        """Wait until something is new since the last time, but no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    def close(self) -> None:
        """Wait no more."""
        self._wakeups.unsubscribe(self)
