"""The sizes and time-outs that an endpoint rarely needs, as one group."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

from stream_cached.checks import require, require_seconds, require_size

#: Bytes of one value in a store. A power of two would waste a quarter of Redis' memory: its
#: allocator has size classes, and each value has a header.
VALUE_SIZE = 256 * 1024 - 64

#: Seconds from the first ping of a store that is away to the second.
RETRY_INTERVAL = 1.0

#: The largest `max_variants`: one record lists all variants of a resource.
MAX_VARIANTS = 10_000


class Size:
    """Type of a field that takes bytes as a number or as text, and that is read as a number."""

    def __init__(self, default: int | str) -> None:
        self._default = default

    # These two tell type checkers what a field takes and gives. A slot of the dataclass replaces
    # them at runtime.

    def __get__(self, instance: object, owner: type) -> int:
        return cast(int, self._default)

    def __set__(self, instance: object, value: int | str) -> None:
        raise AttributeError("a slot has to replace this")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How much memory, room in the store and time the runs of an endpoint may take.

    Pass it to the decorator: `@stream_cached(ttl=60, limits=Limits(max_body="1GiB"))`. A size is a
    number of bytes or a text such as `"64MiB"`, `"1GB"` or `"1048576"`.

    Args:
        max_body: Bytes of a body. A longer body is passed on, but not stored. A bounded store
            never holds a body of more than a quarter of its size.
        max_duration: Seconds of a run. A longer run is passed on, but not stored.
        max_pending: Bytes of one run that may wait to be written to the store, 262,080 or more. A
            run that exceeds this is not stored.
        max_ahead: Bytes that the endpoint may be ahead of its fastest reader. Memory holds twice
            as much of a stream; slower readers read the older bytes from the store or from a
            temporary file.
        max_variants: Variants that are kept under one key, 10,000 at the most. The oldest goes
            first.
        inline_max: Bytes of a record up to which the record holds the body, 262,080 at the most.
            0 stores every body under keys of its own.
        local: Bytes of entries that this process keeps decoded, for all endpoints and stores
            together; the largest of their bounds counts. A hit still reads the entry's record and
            versions in the store, and then need not decode it, nor read a body that has keys of
            its own. 0 keeps none of the endpoint's.
        spool_max: Bytes of temporary files for the slow readers of one run, where the store does
            not hold the bytes. Beyond this, the connection of the slowest reader breaks.
        finish_timeout: Seconds that a run without readers may go on in order to be stored.
        held_finish_timeout: The same, where the run needs something that ends with its request: a
            dependency with `yield`, an unread request body. The smaller of the two counts.
        wait_timeout: Seconds that a request waits for the run of another request to begin its
            response. Then one of those that wait leads a new run, and the others join that one.
            None waits as long as the run is alive, within `max_duration`.
        retry_interval: Seconds from the first ping of a store that is away to the second. The
            interval doubles from ping to ping, up to 30.
        live_window: With `bodies`: bytes of one run that stay in the store of the records until its
            object is whole, for who reads it late, and for an upload that is slower than the
            stream; all runs of a process together have four times as much. A run that is further
            ahead of its upload, and by `max_pending` more, is not stored.
        max_uploads: With `bodies`: objects that this process writes at once. A run beyond that is
            not stored.
        commit_timeout: With `bodies`: seconds that the end of a stream waits until its object is
            stored. What takes longer goes on after it.
        grace: With `bodies`: seconds for which an object is kept once no record leads to it. None
            for `max_duration`.

    Raises:
        ConfigurationError: A field has no valid value; the message begins with its name.
    """

    max_body: Size = Size("64MiB")
    max_duration: float = 600.0
    max_pending: Size = Size("8MiB")
    max_ahead: Size = Size("1MiB")
    max_variants: int = 64
    inline_max: Size = Size(VALUE_SIZE)
    local: Size = Size("16MiB")
    spool_max: Size = Size("256MiB")
    finish_timeout: float = 30.0
    held_finish_timeout: float = 5.0
    wait_timeout: float | None = None
    retry_interval: float = RETRY_INTERVAL
    live_window: Size = Size("64MiB")
    max_uploads: int = 8
    commit_timeout: float = 1.0
    grace: float | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("max_body", 1),
            ("max_pending", VALUE_SIZE),
            ("max_ahead", 1),
            ("max_variants", 1),
            ("inline_max", 0),
            ("local", 0),
            ("spool_max", 1),
            ("live_window", 0),
            ("max_uploads", 1),
        ):
            self._set(name, require_size(name, getattr(self, name), least=least))
        for name in (
            "max_duration",
            "finish_timeout",
            "held_finish_timeout",
            "retry_interval",
            "commit_timeout",
        ):
            self._set(name, require_seconds(name, getattr(self, name)))
        for name in ("wait_timeout", "grace"):
            if getattr(self, name) is not None:
                self._set(name, require_seconds(name, getattr(self, name)))
        require(
            self.max_variants <= MAX_VARIANTS,
            f"max_variants={self.max_variants}: pass {MAX_VARIANTS:,} at the most, or a function "
            "in vary= that makes few values of many",
        )
        self._set("inline_max", min(VALUE_SIZE, self.inline_max))

    @property
    def longest_wait(self) -> float:
        """Seconds that a request waits for one run at most."""
        return self.max_duration if self.wait_timeout is None else self.wait_timeout

    @property
    def pending_share(self) -> int:
        """Bytes that one thing may take of `max_pending`, which has room for several."""
        return self.max_pending // 4

    @property
    def kept_for(self) -> float:
        """Seconds for which an object is kept once no record leads to it."""
        return self.max_duration if self.grace is None else self.grace

    def _set(self, name: str, value: float) -> None:
        object.__setattr__(self, name, value)


#: The names of the limits. The decorators take each of them as a keyword argument, too.
LIMITS = tuple(field.name for field in dataclasses.fields(Limits))


def require_limits(name: str, value: Any) -> Limits:
    require(isinstance(value, Limits), f'{name}={value!r}: pass Limits(max_body="64MiB"), say')
    return cast(Limits, value)


def take_limits(limits: Any, kwargs: dict[str, Any]) -> Limits:
    given = {name: kwargs.pop(name) for name in LIMITS if name in kwargs}
    return dataclasses.replace(require_limits("limits", limits), **given)
