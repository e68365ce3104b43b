"""The wire protocols of Redis, memcached and S3, as far as a proxy must understand them.

It has to know where a command and where a reply ends, what a command does, and which keys it is
about; nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

_SEGMENT = re.compile(r"(.*):([0-9a-f]{32}):(\d+)")
_VERSION = re.compile(r".*:version:[^:]*|.*:revoked")
_LEASE = re.compile(r".*:lease:[^:]*")
_PROGRESS = re.compile(r".*:[0-9a-f]{32}:(progress|followed)")

_REDIS_READS = frozenset({"GET", "MGET", "EXISTS", "PTTL", "PING"})
_REDIS_STORES = frozenset({"SET", "SETEX", "PSETEX", "MSET", "EVAL", "EVALSHA"})
_REDIS_SETUP = frozenset({"HELLO", "AUTH", "SELECT", "CLIENT"})
_REDIS_WRITES = _REDIS_STORES | {"DEL", "UNLINK", "PEXPIRE", "EXPIRE", "PERSIST"}

_MEMCACHED_STORES = frozenset({"SET", "ADD", "REPLACE", "CAS"})
_MEMCACHED_WRITES = _MEMCACHED_STORES | {"DELETE", "TOUCH"}


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a client, whichever server it is for."""

    name: str
    """In capitals."""
    keys: tuple[str, ...]
    raw: bytes
    stores: bool
    """Whether it needs memory in the server."""
    writes: bool
    """Whether it changes anything in the server."""
    prepares: bool = False
    """Whether it belongs to the connection, not to the data."""

    @property
    def pings(self) -> bool:
        """Whether it asks for a sign of life."""
        return self.name in ("PING", "VERSION")

    @property
    def reads(self) -> bool:
        """Whether it asks for values."""
        return self.name in ("GET", "GETS", "MGET") or self.claims

    @property
    def claims(self) -> bool:
        """Whether it looks a record up, and takes the lease if there is none."""
        return self._is_script and _LEASE.fullmatch(self.keys[0]) is not None

    @property
    def commits(self) -> bool:
        """Whether it sets a record if nothing has changed, and ends the lease."""
        return self._is_script and not self.claims

    @property
    def _is_script(self) -> bool:
        return self.name == "EVAL" and len(self.keys) > 1

    @property
    def of_segments(self) -> bool:
        """Whether it is about parts of bodies."""
        return bool(self.keys) and all(map(_SEGMENT.fullmatch, self.keys))

    @property
    def of_record(self) -> bool:
        """Whether it is about a record, alone or together with its versions."""
        others = (_SEGMENT, _VERSION, _PROGRESS)
        is_there = any(not any(other.fullmatch(key) for other in others) for key in self.keys)
        return self.commits or self.claims or (is_there and not self.of_lease)

    @property
    def of_lease(self) -> bool:
        """Whether it is about a lease, alone or together with what is read for it."""
        return not self.commits and any(map(_LEASE.fullmatch, self.keys))

    @property
    def of_version(self) -> bool:
        """Whether it is about a version alone."""
        return bool(self.keys) and all(map(_VERSION.fullmatch, self.keys))


class Wire(Protocol):
    """One protocol. Both methods take what is complete out of the buffer."""

    def command(self, buffer: bytearray) -> Command | None:
        """Take the first command; None while it is not whole."""
        ...

    def reply(self, buffer: bytearray, command: Command) -> bytes | None:
        """Take the reply to a command; None while it is not whole."""
        ...


class RedisWire:
    """RESP 2 and 3: commands are arrays of bulk strings."""

    def command(self, buffer: bytearray) -> Command | None:
        end = _value_end(buffer, 0)
        if end is None:
            return None
        raw = _take(buffer, end)
        words = _words(raw)
        name = words[0].decode().upper()
        return Command(
            name,
            _redis_keys(name, words),
            raw,
            stores=name in _REDIS_STORES,
            writes=name in _REDIS_WRITES,
            prepares=name in _REDIS_SETUP,
        )

    def reply(self, buffer: bytearray, command: Command) -> bytes | None:
        end = _value_end(buffer, 0)
        return None if end is None else _take(buffer, end)


def _take(buffer: bytearray, end: int) -> bytes:
    taken = bytes(memoryview(buffer)[:end])
    del buffer[:end]
    return taken


def _value_end(buffer: bytearray, start: int) -> int | None:
    """Return where a value of RESP ends that starts here."""
    end = buffer.find(b"\r\n", start)
    if end < 0:
        return None
    kind, rest, end = chr(buffer[start]), bytes(buffer[start + 1 : end]), end + 2
    if kind in "$=!":
        # In RESP 2, nothing has a length of -1.
        end += int(rest) + 2 if int(rest) >= 0 else 0
        return end if end <= len(buffer) else None
    if kind not in "*~>%":
        return end
    count = int(rest) * (2 if kind == "%" else 1)
    for _ in range(count):
        inner = _value_end(buffer, end)
        if inner is None:
            return None
        end = inner
    return end


def _words(raw: bytes) -> list[bytes]:
    """Return the words of a command, which is an array of bulk strings."""
    start = raw.index(b"\r\n") + 2
    if raw[:1] != b"*":
        raise ValueError(f"not a command: {raw[:40]!r}")
    words = []
    for _ in range(int(raw[1 : start - 2])):
        end = raw.index(b"\r\n", start)
        size = int(raw[start + 1 : end])
        words.append(raw[end + 2 : end + 2 + size])
        start = end + size + 4
    return words


def _redis_keys(name: str, words: list[bytes]) -> tuple[str, ...]:
    match name:
        case "EVAL" | "EVALSHA":
            keys = words[3 : 3 + int(words[2])]
        case "MGET" | "DEL" | "UNLINK" | "EXISTS":
            keys = words[1:]
        case _ if name in _REDIS_WRITES | _REDIS_READS:
            keys = words[1:2]
        case _:
            keys = []
    return tuple(key.decode("utf-8", "surrogatepass") for key in keys)


class MemcachedWire:
    """memcached's text protocol."""

    def command(self, buffer: bytearray) -> Command | None:
        end = buffer.find(b"\r\n")
        if end < 0:
            return None
        words = bytes(buffer[:end]).decode().split()
        name, end = words[0].upper(), end + 2
        if name in _MEMCACHED_STORES:
            end += int(words[4]) + 2
            if len(buffer) < end:
                return None
        keys = words[1:] if name in ("GET", "GETS") else words[1:2]
        raw = _take(buffer, end)
        stores, writes = name in _MEMCACHED_STORES, name in _MEMCACHED_WRITES
        return Command(name, tuple(keys), raw, stores=stores, writes=writes)

    def reply(self, buffer: bytearray, command: Command) -> bytes | None:
        start = 0
        while (end := buffer.find(b"\r\n", start)) >= 0:
            words, end = bytes(buffer[start:end]).split(), end + 2
            if not command.reads or words[:1] != [b"VALUE"]:
                return _take(buffer, end)
            start = end + int(words[3]) + 2
            if start > len(buffer):
                return None
        return None


class HttpWire:
    """HTTP/1.1, as S3 speaks it: the name of a command is its method, its key the target."""

    def command(self, buffer: bytearray) -> Command | None:
        end = _message_end(buffer)
        if end is None:
            return None
        raw = _take(buffer, end)
        name, target = raw.split(b" ", 2)[:2]
        writes = name not in (b"GET", b"HEAD")
        return Command(name.decode(), (target.decode(),), raw, stores=writes, writes=writes)

    def reply(self, buffer: bytearray, command: Command) -> bytes | None:
        end = _message_end(buffer, is_bare=command.name == "HEAD")
        return None if end is None else _take(buffer, end)


def _message_end(buffer: bytearray, *, is_bare: bool = False) -> int | None:
    """Return where a message of HTTP ends; a bare one has no body, whatever its head says."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, end = bytes(buffer[:end]), end + 4
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length is not None and not is_bare:
        end += int(length[1])
    return end if end <= len(buffer) else None
