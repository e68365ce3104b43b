"""The store over aiocache's Redis backend."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aiocache import RedisCache
from aiocache.base import BaseCache
from redis.asyncio import SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoPermissionError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stream_cached.connections.shared_reads import SharedReads
from stream_cached.connections.speech import speaks_plainly, speaks_tls
from stream_cached.connections.time_limit import TimeLimit
from stream_cached.connections.wakeups import RedisWakeup, Wakeups
from stream_cached.errors import StoreError
from stream_cached.format.envelope import InPieces
from stream_cached.stores.aiocache import AiocacheStore, Passes
from stream_cached.stores.clients import redis_client
from stream_cached.stores.protocol import Commit, Items, NewLease, all_as_bytes
from stream_cached.stores.redis_commands import Command, ask, exchange, set_watched
from stream_cached.stores.refusals import HAS_NO_TLS, NEEDS_TLS, fix_of

#: Prefixes of errors that concern one key (it holds another type) or this client (its pool is
#: small) instead of the server.
_LOCAL_ERRORS = ("WRONGTYPE", "Too many connections", "No connection available")

#: Sets a record if nothing has changed that it depends on. Its arguments: the record, its ttl, the
#: numbers of keys with an expected value, of those of the body, and of those that are renewed; the
#: ttls of the latter two; the value of the lease; and the expected values.
_COMMIT_SCRIPT = """
local expected, body, touched = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local function renew(first, count, px)
  for i = first, first + count - 1 do
    if px ~= '' then redis.call('PEXPIRE', KEYS[i], px) else redis.call('PERSIST', KEYS[i]) end
  end
end
for i = 1, expected do
  local found = redis.call('GET', KEYS[1 + i])
  if (found and '=' .. found or '') ~= ARGV[8 + i] then return 0 end
end
for i = 1, body do
  if redis.call('EXISTS', KEYS[1 + expected + i]) == 0 then return 0 end
end
-- A full server refuses it. What was written of the body then expires as if its run had failed.
if ARGV[2] ~= '' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1])
end
renew(2 + expected, body, ARGV[6])
renew(2 + expected + body, touched, ARGV[7])
local last = 1 + expected + body + touched
local lease, followed = KEYS[last + 1], KEYS[last + 2]
if not lease or redis.call('GET', lease) ~= ARGV[8] or redis.call('GET', followed) then
  return 1
end
redis.call('DEL', lease, unpack(KEYS, last + 3))
return 2
"""

#: Reads values and, where the first one is missing and the others are as expected, takes a lease.
#: Its arguments: the value of the lease, its ttl, the latest time at which to take it in
#: milliseconds by the server's clock, and what is expected. It returns that clock, too.
_CLAIM_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local values = redis.call('MGET', unpack(KEYS, 2))
if values[1] then return {0, now, values} end
for i = 2, #values do
  if (values[i] and '=' .. values[i] or '') ~= ARGV[2 + i] then return {0, now, values} end
end
-- A full server refuses to set it. What the client sends again may be late, and has set it before.
local is_late = ARGV[3] ~= '' and now > tonumber(ARGV[3])
local set = not is_late and redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if (set and set.ok) or redis.pcall('GET', KEYS[1]) == ARGV[1] then return {1, now, values} end
return {0, now, values}
"""

#: Milliseconds after which a look-up takes no lease any more. A server that was held up carries out
#: what it was sent, though nobody waits for it.
_CLAIM_WITHIN = 250

_TEXT = frozenset({str})

#: Keys of whole values, keys of others, and where what is read of each of those ends.
_Place = tuple[tuple[Any, ...], tuple[Any, ...], tuple[str, ...]]

_ERROR_CODE = re.compile(r"[A-Z]{3,}\b")


def _as_expected(value: bytes | None) -> bytes:
    """Return what a script compares a value with."""
    return b"" if value is None else b"=" + value


def _is_forbidden(reply: Any) -> bool:
    """Whether a server will refuse a command, or a script that has it, each time."""
    if not isinstance(reply, ResponseError):
        return False
    said = str(reply)
    is_lasting = "can't run this command" in said or "unknown command" in said
    return is_lasting or isinstance(reply, NoPermissionError)


class RedisStore(AiocacheStore):
    """The store over Redis: many keys in one round trip, ttls in milliseconds."""

    takes = InPieces
    own_reads = RedisCache._get, RedisCache._multi_get

    def __init__(
        self, cache: BaseCache, timeout: float | None, time_limit: TimeLimit | None = None
    ) -> None:
        super().__init__(cache, timeout, time_limit)
        self._may_publish = self.may_compare = self.may_commit = self.may_claim = True
        self._ahead: float | None = None
        """Milliseconds by which the server's clock is ahead of this process'; None if unknown."""
        self._wakeups = Wakeups(partial(redis_client, cache))
        self._compared = SharedReads(self._read_starts)

    def is_lost(self, exc: Exception) -> bool:
        return isinstance(exc, RedisConnectionError | RedisTimeoutError) or super().is_lost(exc)

    def fix_of(self, exc: Exception) -> str:
        return fix_of(exc)

    async def diagnosis(self, failure: StoreError) -> str:
        """Look whether it is only TLS that the two sides do not agree about."""
        pool = self.cache.client.connection_pool
        host, port = (pool.connection_kwargs.get(name) for name in ("host", "port"))
        if failure.fix or host is None or port is None:
            return failure.fix
        if issubclass(pool.connection_class, SSLConnection):
            return HAS_NO_TLS if await speaks_plainly(host, port) else ""
        # A server that does not answer in time is one that hangs.
        is_closed = isinstance(failure.__cause__, RedisConnectionError)
        return NEEDS_TLS if is_closed and await speaks_tls(host, port) else ""

    def is_no_outage(self, exc: Exception) -> bool:
        if isinstance(exc, DataError | NoPermissionError) or super().is_no_outage(exc):
            return True
        text = str(exc)
        # The clients strip the general error code ERR; other codes stay in the text.
        is_mistake = type(exc) is ResponseError and not _ERROR_CODE.match(text)
        return is_mistake or text.startswith(_LOCAL_ERRORS)

    def native_key(self, key: str) -> Any:
        return self._built((key,))[0]

    def _built(self, keys: Sequence[str]) -> tuple[Any, ...]:
        build, namespace = self.cache.build_key, self.cache.namespace
        is_usual = getattr(build, "__func__", None) is RedisCache._build_key
        if is_usual and _TEXT.issuperset(map(type, keys)):
            # What aiocache does with it, unless the user has a function for that.
            prefix = f"{namespace}:" if namespace else ""
            return tuple([(prefix + key).encode("utf-8", "surrogatepass") for key in keys])
        natives = map(super().native_key, keys)
        return tuple(
            native.encode("utf-8", "surrogatepass") if isinstance(native, str) else native
            for native in natives
        )

    def native_ttl(self, ttl: float | None) -> int | None:
        return None if ttl is None else max(1, math.ceil(ttl * 1000))

    async def set_many(self, items: Items, ttl: float | None) -> None:
        await self.call("set", partial(ask, self.cache.client, self._setting(items, ttl)))

    def _setting(self, items: Items, ttl: float | None) -> list[Command]:
        """Return what sets each key."""
        expiry = self._expiry(ttl)
        return [("SET", self.native_key(key), value, *expiry) for key, value in items]

    def _expiry(self, ttl: float | None) -> Command:
        # Words that are texts are packed more quickly.
        return () if ttl is None else ("PX", str(self.native_ttl(ttl)))

    async def set_and_wake(self, items: Items, ttl: float | None, channel: str) -> None:
        if not items and not self._may_publish:
            return
        commands = self._setting(items, ttl)
        if self._may_publish:
            commands.append(("PUBLISH", self.native_key(channel), b""))
        replies = await self.call("set", partial(exchange, self.cache.client, commands))
        if any(isinstance(reply, NoPermissionError) for reply in replies):
            # Subscribers also poll, so a forbidden PUBLISH delays them only.
            self._may_publish = False
        self._check_set(replies[: len(items)])

    def _check_set(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.failure("set", reply) from reply

    def wakeup(self, channel: str) -> RedisWakeup:
        return self._wakeups.subscribe(self.native_key(channel))

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return bool(await self._ask("add", self._adding(key, value, ttl)))

    def _adding(self, key: str, value: bytes, ttl: float | None) -> Command:
        """Return what sets a key that is missing."""
        return "SET", self.native_key(key), value, *self._expiry(ttl), "NX"

    async def _ask(self, name: str, command: Command, passes: Passes = ()) -> Any:
        """Return the reply to one command; exceptions in `passes` are answers."""
        (reply,) = await self.call(name, partial(ask, self.cache.client, [command]), passes)
        return reply

    async def add_and_get_many(
        self, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
    ) -> tuple[bool, list[bytes | None]]:
        commands = self._adding(key, value, ttl), ("MGET", *self.native_keys(keys))
        done, values = await self.call("add", partial(ask, self.cache.client, commands))
        return bool(done), all_as_bytes(values)

    async def look_and_claim(
        self, lease: NewLease, keys: Sequence[str], expected: Sequence[bytes | None]
    ) -> tuple[bool, list[bytes | None]]:
        lease_key, value, ttl = lease
        natives = self._built([lease_key, *keys])
        sent = time.monotonic() * 1000
        within = _CLAIM_WITHIN if self.timeout is None else min(_CLAIM_WITHIN, 1000 * self.timeout)
        until = "" if self._ahead is None else str(int(sent + self._ahead + within))
        arguments = (value, str(self.native_ttl(ttl)), until, *map(_as_expected, expected))
        script = "EVAL", _CLAIM_SCRIPT, str(len(natives)), *natives, *arguments
        try:
            done, now, values = await self._ask("get", script, (ResponseError,))
        except ResponseError as exc:
            self.may_claim = not _is_forbidden(exc)
            return False, await self.get_many(keys)
        self._ahead = now - sent
        return bool(done), all_as_bytes(values)

    async def get_many_and_compare(
        self, keys: Sequence[str], starts: Mapping[str, bytes]
    ) -> tuple[list[bytes | None], bool]:
        began = time.monotonic()
        if self.may_compare:
            ends = [str(len(start) - 1) for start in starts.values()]
            natives, count = self.native_keys([*keys, *starts]), len(keys)
            place = natives[:count], natives[count:], tuple(ends)
            values, *found = await self.call("get", partial(self._compared, place))
            is_same = found == [*starts.values()]
            if is_same or not any(map(_is_forbidden, found)):
                return all_as_bytes(values), is_same
            self.may_compare = False
        # Whole values may be read.
        return await self.read_and_compare(keys, starts, began)

    async def _read_starts(self, place: _Place) -> list[Any]:
        """Read values, and the first bytes of others."""
        keys, others, ends = place
        ranges = [("GETRANGE", key, "0", end) for key, end in zip(others, ends, strict=True)]
        replies = await exchange(self.cache.client, [("MGET", *keys), *ranges])
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    async def _read(self, natives: tuple[Any, ...]) -> Sequence[Any]:
        if not self.reads_as_aiocache:
            return await super()._read(natives)
        command = "MGET" if natives[1:] else "GET", *natives
        (found,) = await exchange(self.cache.client, [command])
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, list) else [found]

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        expiry = self._expiry(ttl)
        native, name = self.native_key(key), "compare and set"
        script = "EVAL", self.cache.CAS_SCRIPT, 1, native, value, expected, *expiry
        if self.may_commit:
            try:
                return bool(await self._ask(name, script, (ResponseError,)))
            except ResponseError as exc:
                if not _is_forbidden(exc):
                    raise self.failure(name, exc) from exc
                self.may_commit = False
        setting = "SET", native, value, *expiry
        return await self.call(name, partial(set_watched, self.cache.client, expected, setting))

    async def compare_and_delete(self, key: str, expected: bytes) -> bool:
        if self.may_commit:
            release = "EVAL", self.cache.RELEASE_SCRIPT, 1, self.native_key(key), expected
            # Without permission for scripts it is done in two steps.
            with contextlib.suppress(ResponseError):
                return bool(await self._ask("delete", release, (ResponseError,)))
        if await self.get_many([key]) != [expected]:
            return False
        await self.delete_many([key])
        return True

    async def commit(self, commit: Commit) -> tuple[bool, bool]:
        keys = [commit.key, *commit.expected, *commit.body, *commit.touched]
        if (lease := commit.lease) is not None:
            keys += [lease.key, lease.followed, *lease.dropped]
        ttls = (commit.ttl, commit.body_ttl, commit.touched_ttl)
        record_px, *other_px = ["" if ttl is None else str(self.native_ttl(ttl)) for ttl in ttls]
        counts = map(str, map(len, (commit.expected, commit.body, commit.touched)))
        held = b"" if lease is None else lease.value
        values = held, *map(_as_expected, commit.expected.values())
        arguments = (commit.value, record_px, *counts, *other_px, *values)
        script = "EVAL", _COMMIT_SCRIPT, str(len(keys)), *self._built(keys), *arguments
        commands = [*self._setting(commit.last, commit.last_ttl), script]
        # The script misses an item that can't be set.
        *others, done = await self.call("set", partial(exchange, self.cache.client, commands))
        self._check_set(others)
        if isinstance(done, ResponseError):
            # Step by step, it may be done all the same; or it is known then what forbids it.
            self.may_commit = not _is_forbidden(done)
            return False, False
        return done > 0, done > 1

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        px = self.native_ttl(ttl)
        commands: list[Command] = []
        for native in self._built(keys):
            # PERSIST returns 0 for a missing key and for a key without a ttl.
            renew = (("PERSIST", native), ("EXISTS", native))
            commands += renew if px is None else (("PEXPIRE", native, px),)
        found = await self.call("touch", partial(ask, self.cache.client, commands))
        return sum(map(bool, found[1::2] if px is None else found))

    async def delete_many(self, keys: Sequence[str]) -> None:
        if keys:
            await self._ask("delete", ("DEL", *self._built(keys)))

    async def ping(self) -> None:
        # A server that forbids PING has answered.
        with contextlib.suppress(NoPermissionError):
            await self._ask("ping", ("PING",), (NoPermissionError,))

    async def reconnect(self) -> None:
        pool = self.cache.client.connection_pool
        await self.call("reconnect", partial(pool.disconnect, inuse_connections=False))
