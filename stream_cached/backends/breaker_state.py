"""Whether a store is used, and when it is asked again. Plain values in, decisions out."""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: Seconds between two pings at the most, unless `retry_interval` is longer.
MAX_INTERVAL = 30.0

#: Seconds after which a store that is back has recovered: what happens then is another outage.
RECOVERED_AFTER = 30.0


class State(enum.Enum):
    """What is known of a store."""

    UNTRIED = "untried"
    """It was not asked yet."""
    AVAILABLE = "available"
    """It is used."""
    AWAY = "away"
    """It failed, and is not used until it answers a ping."""


@dataclass(frozen=True, slots=True)
class Health:
    """The state of one store, as this process sees it."""

    store: str
    """Its address, without credentials."""
    state: State
    seconds: float
    """How long it has been in that state."""
    requests: int
    """How many requests were answered without it since it went away."""
    cause: str | None
    """Why it went away."""
    invalidations: int
    """How many invalidations are carried out before it is used again."""

    @property
    def available(self) -> bool:
        """Whether it is used; also as long as it was not asked yet."""
        return self.state is not State.AWAY


class BreakerState:
    """
    What is known of one store.

    Args:
        retry_interval: Seconds until the second ping of an outage (the first one follows its
            failure at once); they double from ping to ping, up to `MAX_INTERVAL`.
        now: Monotonic seconds.
    """

    def __init__(self, retry_interval: float, now: float) -> None:
        self.retry_interval = retry_interval
        self.state = State.UNTRIED
        self.since = now
        self.requests = 0
        self.cause: str | None = None
        self.outages = 0
        self._failures = 0
        self._relapses = 0

    def lost(self, cause: str, now: float) -> bool:
        """Note a failure; return whether the store has gone away by it."""
        if self.state is State.AWAY:
            return False
        # One that comes and goes is asked less and less often; one that never came back was asked.
        recovered = self.state is State.AVAILABLE and now - self.since >= RECOVERED_AFTER
        self._relapses = 0 if recovered or not self.outages else self._relapses + 1
        self._failures = self._relapses if self.state is State.AVAILABLE else 1
        self.state, self.since, self.cause, self.requests = State.AWAY, now, cause, 0
        self.outages += 1
        return True

    def failed_again(self) -> None:
        """Note a ping that failed."""
        self._failures += 1

    def answered(self, now: float) -> None:
        """Note a ping that was answered: the store is used from now on."""
        self.state, self.since, self.cause = State.AVAILABLE, now, None

    def next_ping(self, chance: float) -> float:
        """
        Return in how many seconds the store is to be asked.

        Args:
            chance: From 0 to 1, at random: processes that lost a store together should not come
                back together.
        """
        if not self._failures:
            return 0.0
        longest = max(MAX_INTERVAL, self.retry_interval)
        # Two to the power of 20 is beyond any bound.
        interval = self.retry_interval * 2.0 ** min(self._failures - 1, 20)
        return min(longest, interval) * (0.5 + chance / 2)
