"""What the engine knows of one cached function, and what a front door adds to its way."""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from stream_cached.backends.binding import Backend, Binding
from stream_cached.backends.pending import InvalidatedBefore
from stream_cached.endpoint.tags import ANY, tag_key_of
from stream_cached.endpoint.validator import Validator
from stream_cached.engine.header_rules import HeaderRules
from stream_cached.engine.values import Use
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.local import allow
from stream_cached.entries.object_body import KeptBodies
from stream_cached.entries.protocols import KeySets
from stream_cached.entries.resource import Resource
from stream_cached.events import Reporter
from stream_cached.options import Options
from stream_cached.stores.protocol import Store

if TYPE_CHECKING:
    from stream_cached.engine.outcome import Call, PlainValue, View


T = TypeVar("T")

#: For how many keys of a function it is remembered that their entries were stored here.
_MOST_STORED = 1000

#: Those of a function are the same for nearly all of its calls.
_lifetimes = functools.lru_cache(maxsize=1024)(Lifetimes)


class Hooks:
    """
    What a front door adds to the way of a request.

    The methods that raise NotImplementedError have no default.
    """

    @property
    def keys_by_request(self) -> bool:
        """Whether the key of a request is built from everything that it has to hold."""
        return True

    @property
    def by_response(self) -> bool:
        """Whether a response says itself for how long it is fresh."""
        return False

    @property
    def has_own_tags(self) -> bool:
        """Whether something outside makes an ETag of each body that is no stream: a second one
        would make its clients send for the body once more."""
        return False

    @property
    def has_own_values(self) -> bool:
        """Whether plain values are kept elsewhere, too, so that a miss has to look there."""
        return False

    def is_switched_off(self) -> bool:
        """Whether the cache is neither read nor written now."""
        return False

    def is_invalidation_off(self) -> bool:
        """Whether an invalidation changes nothing now."""
        return False

    def binding(self) -> Binding:
        """Return the cache of the function."""
        raise NotImplementedError

    def ttl(self) -> float | None:
        """Return the seconds for which what is stored is fresh; None for no end."""
        raise NotImplementedError

    async def load_value(self, use: Use, key: str) -> PlainValue | None:
        """Return a plain value that is stored; None if there is none. The value itself may be None,
        which is a value in cashews, and none in aiocache."""
        raise NotImplementedError

    async def save_value(self, use: Use, key: str, value: Any) -> None:
        """Store a plain value."""
        raise NotImplementedError

    @property
    def deciding(self) -> str:
        """What the user has to say whether a result is to be stored."""
        return "skip_cache_func"

    def keeps_objects(self, use: Use) -> bool:
        """Whether plain values are kept as objects, of which each caller needs one of its own."""
        return False

    def accepts(self, call: Call, resource: Resource, result: Any) -> bool:
        """Whether a result is to be stored; the hook may set the ttl of the resource."""
        return True

    def signs_values(self, backend: Backend) -> bool:
        """Whether plain values are stored in signed records, and not by the cache itself."""
        return backend.signs

    def tag_key(self, tag: str) -> str:
        """Return the key of a tag's version."""
        return tag_key_of(tag)

    def versions(self, call: Call) -> Sequence[str]:
        """Return the keys of the versions that an entry depends on, beside its endpoint's."""
        return ()

    def heeded(
        self, asked: Sequence[tuple[bytes, bytes]], stored: Sequence[tuple[bytes, bytes]]
    ) -> Sequence[tuple[bytes, bytes]]:
        """Return those headers of a request whose conditions count for a stored response."""
        return asked

    def adapt_lifetimes(self, call: Call, lifetimes: Lifetimes) -> Lifetimes:
        """Return how long the records of a call live."""
        # Functions with other ttls may share a tag, whose version outlives the entries of all.
        has_tags = bool(call.versions) or call.tags_of is not None
        has_ttl = has_tags and lifetimes.ttl is not None
        return replace(lifetimes, differ=True) if has_ttl else lifetimes

    def key_sets(self, call: Call, backend: Backend) -> KeySets | None:
        """Return the sets that the keys of a call are added to."""
        return None

    async def stored(self, view: View) -> None:
        await view.use.was_set(view.resource.key)

    prepares = False
    """Whether something comes before a look-up."""

    async def prepare(self, call: Call, resource: Resource) -> None:
        """Do what comes before a look-up."""


class RequestBound:
    """Whether the runs of a function need something that ends with their request."""

    def __init__(self) -> None:
        self.is_known = False
        """Whether a run has failed after its request: a middleware closes a session, perhaps."""

    def note_failure(self) -> None:
        """Let later runs end before their requests."""
        self.is_known = True


class Flights:
    """The calls of a validator that go on, for those that want to know the same."""

    def __init__(self) -> None:
        self._flights: dict[object, asyncio.Future[Any]] = {}

    async def one(self, place: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work for a place, or wait for the result of who does it already."""
        loop = asyncio.get_running_loop()
        key = loop, place
        while (other := self._flights.get(key)) is not None:
            await asyncio.wait({other})
            if not other.cancelled():
                result: T = other.result()
                return result
        own = self._flights[key] = loop.create_future()
        try:
            result = await work()
            own.set_result(result)
        finally:
            # If the work was cut off, one of those that wait does it again.
            own.cancel()
            del self._flights[key]
        return result


class PlainValues:
    """Whether a function has values in a cache that have no versions."""

    def __init__(self) -> None:
        self.are_there = False


class Outlook:
    """What the last look-up of a function suggests for the next one."""

    versions: Mapping[str, bytes] = MappingProxyType({})
    """The values of the versions that it will read."""
    _is_miss = False

    def __init__(self) -> None:
        # Event loops in several threads may call one function.
        self._stored: OrderedDict[str, None] = OrderedDict()

    def is_miss(self, key: str) -> bool:
        """Whether it will find nothing, if it is for this key."""
        return self._is_miss and key not in self._stored

    def note(self, key: str, *, is_miss: bool) -> None:
        """Note what the last one was for, and whether it has found nothing."""
        self._is_miss = is_miss
        if is_miss:
            self._stored.pop(key, None)

    def note_stored(self, key: str) -> None:
        """Note that an entry was stored, which the next one for this key finds."""
        self._stored[key] = None
        if len(self._stored) > _MOST_STORED:
            self._stored.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Service:
    """One cached function."""

    version: str
    """The key of its version, which all of its entries depend on."""
    options: Options
    headers: HeaderRules
    reporter: Reporter
    hooks: Hooks
    invalidated_before: InvalidatedBefore
    """The plain values that may have been invalidated while the store was away."""
    request_bound: RequestBound = field(default_factory=RequestBound)
    plain_values: PlainValues = field(default_factory=PlainValues)
    outlook: Outlook = field(default_factory=Outlook)
    validator: Validator | None = None
    flights: Flights = field(default_factory=Flights)
    _lifetime_args: tuple[float, float, bool] = field(init=False, repr=False)
    """What `Lifetimes` are made of beside the ttl."""

    def __post_init__(self) -> None:
        allow(self.options.limits.local)
        options = self.options
        dated = options.honor_request is not False
        object.__setattr__(self, "_lifetime_args", (options.longest_run, options.kept, dated))

    @property
    def store(self) -> str:
        """The address of its store, without credentials; empty for memory."""
        breaker = self.hooks.binding().breaker
        return "" if breaker is None else breaker.name

    def lifetimes(self) -> Lifetimes:
        return _lifetimes(self.hooks.ttl(), *self._lifetime_args)

    def needs(self, call: Call) -> tuple[str, ...]:
        """Return the keys of the versions that the entries of a call depend on."""
        return (self.version, *call.versions, *self.hooks.versions(call))

    def resource(self, call: Call, backend: Backend) -> Resource:
        return Resource(
            backend.store,
            call.key,
            needs=self.needs(call),
            lifetimes=self.hooks.adapt_lifetimes(call, self.lifetimes()),
            select=None if call.request is None else call.request.select,
            max_variants=self.options.limits.max_variants,
            key_sets=self.hooks.key_sets(call, backend),
            local=backend.local if self.options.limits.local else None,
            bodies=None if self.options.bodies is None else self._kept_bodies(backend),
            witness=None if call.tags_of is None else self.hooks.tag_key(ANY),
        )

    def _kept_bodies(self, backend: Backend) -> KeptBodies | None:
        """Return where large bodies are kept; memory that stands in for a store keeps its own."""
        bodies = self.options.bodies
        if bodies is None or backend.is_fallback:
            return None
        return KeptBodies(bodies, backend.cache.namespace or "", self.options.limits)

    def resource_of(self, backend: Backend, key: str) -> Resource:
        """Return a view of a resource without a request, with its large bodies."""
        return self.resource_at(backend.store, key, self._kept_bodies(backend))

    def resource_at(self, store: Store, key: str, bodies: KeptBodies | None = None) -> Resource:
        """Return a view of a resource without a request, in any store."""
        return Resource(
            store,
            key,
            needs=(self.version,),
            lifetimes=self.lifetimes(),
            select=None,
            max_variants=self.options.limits.max_variants,
            bodies=bodies,
        )
