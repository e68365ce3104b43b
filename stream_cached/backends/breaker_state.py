"""The states of the circuit breaker, and the times of its pings. No I/O, no clock."""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: The longest interval between two pings in seconds, unless `retry_interval` is longer.
MAX_INTERVAL = 30.0

#: Seconds after which a store that is back counts as recovered: the next failure is a new outage.
RECOVERED_AFTER = 30.0


class State(enum.Enum):
    """The state of a store, as this process sees it."""

    UNTRIED = "untried"
    """The store was not pinged yet."""
    AVAILABLE = "available"
    """The store is used."""
    AWAY = "away"
    """The store failed, and is not used until it answers a ping."""


@dataclass(frozen=True, slots=True)
class Health:
    """The state of one store, as this process sees it."""

    store: str
    """The address of the store, without credentials."""
    state: State
    seconds: float
    """Seconds since the state last changed."""
    requests: int
    """The number of requests answered without the store in its last outage."""
    cause: str | None
    """The failure that started the current outage."""
    invalidations: int
    """The number of invalidations to carry out before the store is used again."""
    role: str = "records"
    """What is kept there: `"records"`, with small bodies, or large `"bodies"`."""
    bodies: Health | None = None
    """The state of the store of large bodies, if there is one."""

    @property
    def available(self) -> bool:
        """Whether the store is used. A store that was not pinged yet counts as available."""
        return self.state is not State.AWAY


class BreakerState:
    """The state machine of one store's circuit breaker; times are monotonic seconds.

    The first ping follows a failure at once. The next intervals start at `retry_interval` and
    double up to `MAX_INTERVAL`."""

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
        """Return whether the failure starts an outage."""
        if self.state is State.AWAY:
            return False
        # A flapping store is pinged at growing intervals. A store that failed its very first ping
        # has just been pinged.
        recovered = self.state is State.AVAILABLE and now - self.since >= RECOVERED_AFTER
        self._relapses = 0 if recovered or not self.outages else self._relapses + 1
        self._failures = self._relapses if self.state is State.AVAILABLE else 1
        self.state, self.since, self.cause, self.requests = State.AWAY, now, cause, 0
        self.outages += 1
        return True

    def failed_again(self) -> None:
        self._failures += 1

    def answered(self, now: float) -> None:
        self.state, self.since, self.cause = State.AVAILABLE, now, None

    def next_ping(self, chance: float) -> float:
        if not self._failures:
            return 0.0
        longest = max(MAX_INTERVAL, self.retry_interval)
        # Avoids an overflow: 2 to the power of 20 already exceeds any bound.
        interval = self.retry_interval * 2.0 ** min(self._failures - 1, 20)
        # The jitter spreads the pings of several processes.
        return min(longest, interval) * (0.5 + chance / 2)
