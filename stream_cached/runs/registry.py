"""Who runs the endpoint for a key in this process, who waits for him, and what can be joined."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from starlette.exceptions import HTTPException
from starlette.responses import Response

from stream_cached.keys.variants import Select, Variant, is_for, variant_of
from stream_cached.runs.lease import Lease

#: Seconds for which a variant is remembered whose response could not be shared: until then, nobody
#: waits for anybody (Varnish's hit-for-miss).
NOT_SHARED_FOR = 120.0

#: Seconds for which what is stale is not made anew again, once that has failed.
REST = 5.0

#: Seconds after which to look again whether another process still makes anew what is stale.
LEFT_FOR = 1.0

#: Keys that are remembered at the most, and variants of each.
_MOST = 10_000
_MOST_VARIANTS = 64

#: Returns a response of its own for one who joins, within some seconds, and who has asked at a time
#: by the monotonic clock; None where that fails.
Join = Callable[[float, float], Awaitable[Response | None]]

#: The turns that the running code is part of: it must not wait for itself.
_own: ContextVar[tuple[Turn, ...]] = ContextVar("stream_cached_turns", default=())


class Turn:
    """
    One run of an endpoint, from before its answer is known until its entry is visible.

    Args:
        flights: Where it stands.
        key: The key of its resource.
        variant: The one that this request is for, as far as that is known.
    """

    def __init__(self, flights: Flights, key: str, variant: Variant) -> None:
        self.key = key
        self.variant = variant
        self.versions: Mapping[str, bytes] = {}
        self.join: Join | None = None
        self.lease: Lease | None = None
        """What makes it the only one, among processes; None where it need not be."""
        self.is_value = False
        """Whether it has brought a plain value, which only the store can hand on."""
        self._flights = flights
        self._answered = asyncio.Event()

    def is_for(self, select: Select | None) -> bool:
        """Whether a request is one for the same variant, as far as that is known."""
        return is_for(self.variant, select)

    def answer(self, join: Join, versions: Mapping[str, bytes], variant: Variant) -> None:
        """
        Let those who wait join, and those who come later.

        Args:
            join: Returns a response for one of them.
            versions: Those that it is made under.
            variant: What selects it.
        """
        self.join, self.versions, self.variant = join, versions, variant
        self._answered.set()

    def bring_value(self, versions: Mapping[str, bytes]) -> None:
        """Say that it brings a plain value, which is stored under these versions."""
        self.is_value, self.versions = True, versions

    def end(self, *, shared: bool = True) -> None:
        """
        Let nobody join any more; one of those who wait runs next.

        Args:
            shared: False where the response can't be shared: all who want this variant run, and
                nobody waits for a while.
        """
        self.retire(shared=shared)
        if self.lease is not None:
            self.lease.release(alone=None if shared else self.variant)

    def retire(self, *, shared: bool = True) -> None:
        """
        Let nobody in this process join any more, though the run may go on.

        Args:
            shared: As for `end`.
        """
        self._flights.leave(self, shared=shared)
        self.join = None
        self._answered.set()

    @property
    def token(self) -> bytes | None:
        """What other processes know the run by; None where they know nothing of it."""
        return None if self.lease is None else self.lease.token

    async def released(self) -> None:
        """Wait until other processes know of its end."""
        if self.lease is not None:
            await self.lease.released()

    async def answered(self, seconds: float) -> bool:
        """Wait until it can be joined, or is over; return whether that was in time."""
        if self._answered.is_set():
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            return False
        return True


class LoopFlights:
    """The turns of one store, in each event loop those that run there."""

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Flights] = WeakKeyDictionary()
        self._pid = os.getpid()

    @property
    def here(self) -> Flights:
        """Those of the running loop."""
        loop, pid = asyncio.get_running_loop(), os.getpid()
        if pid != self._pid:
            # Nothing goes on in a fork.
            self._by_loop, self._pid = WeakKeyDictionary(), pid
        flights = self._by_loop.get(loop)
        if flights is None:
            flights = self._by_loop[loop] = Flights()
        return flights


class Flights:
    """The turns of one store in one event loop, by key."""

    def __init__(self) -> None:
        self._turns: dict[str, list[Turn]] = {}
        self._not_shared = HitForMiss()
        self._resting = _Remembered(REST)
        self._left_to_others = _Remembered(LEFT_FOR)
        self.ended = 0
        """How many turns have ended: whoever looked up the store meanwhile may have missed one."""

    def approach(
        self, key: str, names: Sequence[str], select: Select | None, *, shared: bool | None = None
    ) -> tuple[Turn | None, bool]:
        """
        Return the turn to wait for or to join; the caller's own where there is none.

        Args:
            key: The key of the resource.
            names: The headers that are known to select among its responses.
            select: What tells the request's variant.
            shared: Whether the response can be shared; None for what was seen last.

        Returns:
            The turn, and whether it is the caller's own; none where nobody waits for anybody, or
            the caller would for himself.
        """
        if not shared and self._not_shared.has(key, select):
            return None, False
        turns, own = self._turns.get(key, []), _own.get()
        for turn in turns:
            if turn.is_for(select):
                return (None, False) if turn in own else (turn, False)
        # Of one that runs already, or has, it is known what its response varies on.
        others = [*(turn.variant for turn in turns), *self._not_shared.variants(key)]
        known = {*names, *(name for variant in others for name in variant[0])}
        turn = Turn(self, key, variant_of(tuple(known), select))
        self._turns.setdefault(key, []).append(turn)
        return turn, True

    def under_way(self, key: str, select: Select | None) -> Turn | None:
        """Return the turn that a request may wait for, or join, which is not to run itself."""
        if self._not_shared.has(key, select):
            return None
        for turn in self._turns.get(key, []):
            if turn.is_for(select) and turn not in _own.get():
                return turn
        return None

    def leave(self, turn: Turn, *, shared: bool) -> None:
        """Take a turn away; where its response was not shared, remember that."""
        turns = self._turns.get(turn.key, [])
        if turn in turns:
            self.ended += 1
            turns.remove(turn)
            if not turns:
                del self._turns[turn.key]
        if not shared:
            self._not_shared.add(turn.key, turn.variant)

    def share_again(self, key: str, select: Select | None) -> None:
        """Forget that what a request is for could not be shared."""
        self._not_shared.discard(key, select)

    def rest(self, place: str) -> None:
        """Remember that what is stale in a place could not be made anew."""
        self._resting.add(place)

    def leave_to_others(self, place: str) -> None:
        """Remember that what is stale in a place is made anew in another process."""
        self._left_to_others.add(place)

    def is_left_to_others(self, place: str) -> bool:
        """Whether what is stale in a place is made anew in another process."""
        return place in self._left_to_others

    def is_resting(self, place: str) -> bool:
        """Whether to leave what is stale in a place as it is, for a while."""
        return place in self._resting


class _Remembered:
    """Keys that are remembered for some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._until[key]
        return False

    def add(self, key: str) -> None:
        self._until.pop(key, None)
        if len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        self._until[key] = time.monotonic() + self._seconds


class HitForMiss:
    """Variants that are remembered since their response could not be shared."""

    def __init__(self) -> None:
        self._until: dict[str, dict[Variant, float]] = {}

    def add(self, key: str, variant: Variant) -> None:
        until = self._until.pop(key, {})
        until.pop(variant, None)
        if len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        if len(until) >= _MOST_VARIANTS:
            del until[next(iter(until))]
        until[variant] = time.monotonic() + NOT_SHARED_FOR
        self._until[key] = until

    def variants(self, key: str) -> list[Variant]:
        """Return those of a key that are not to be forgotten yet."""
        until = self._until.get(key)
        if until is None:
            return []
        now = time.monotonic()
        for variant in [variant for variant, end in until.items() if end <= now]:
            del until[variant]
        if not until:
            del self._until[key]
        return list(until)

    def has(self, key: str, select: Select | None) -> bool:
        """Whether a request is for one of them."""
        return any(is_for(variant, select) for variant in self.variants(key))

    def discard(self, key: str, select: Select | None) -> None:
        """Forget the one that a request is for."""
        for variant in self.variants(key):
            if is_for(variant, select):
                del self._until[key][variant]


@asynccontextmanager
async def within(turn: Turn | None) -> AsyncIterator[None]:
    """Let what runs within, and what it begins, be part of a turn; end it where that fails."""
    if turn is None:
        yield
        return
    token = _own.set((*_own.get(), turn))
    try:
        yield
    except HTTPException as exc:
        # An answer like one that is returned: no other will do for those who wait.
        turn.end(shared=exc.status_code >= 500)
        await turn.released()
        raise
    except Exception:
        turn.end()
        await turn.released()
        raise
    except BaseException:
        turn.end()
        raise
    finally:
        _own.reset(token)
    await turn.released()
