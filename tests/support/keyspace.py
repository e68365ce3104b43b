"""What stands in a Redis: a test looks at it, and damages it."""

from __future__ import annotations

import re
from typing import Any

import redis

from tests.support.process import HOST

_OF_RUNS = re.compile(r":lease:[0-9a-f]{32}$|:progress$|:followed$")


class Keyspace:
    """The keys of database 0 of the Redis at `port`."""

    def __init__(self, port: int) -> None:
        self._port = port

    def run(self, *words: str | bytes | int) -> Any:
        with redis.Redis(host=HOST, port=self._port) as client:
            return client.execute_command(*words)

    def all(self) -> dict[str, bytes]:
        """All but what processes tell each other of a run."""
        keys = [key.decode() for key in sorted(self.run("KEYS", "*"))]
        return {key: self.run("GET", key) for key in keys if not _OF_RUNS.search(key)}

    def with_ttl(self) -> set[str]:
        return {key for key in self.all() if self.run("PTTL", key) != -1}

    def without_ttl(self) -> set[str]:
        return {key for key in self.all() if self.run("PTTL", key) == -1}

    def set(self, key: str, value: bytes | None) -> None:
        """Set a key and keep its ttl; None deletes it."""
        if value is None:
            self.run("DEL", key)
        else:
            self.run("SET", key, value, "KEEPTTL")

    def let_pass(self, seconds: float) -> None:
        """Let so much of each key's time to live be over at once."""
        for key in self.run("KEYS", "*"):
            left = self.run("PTTL", key)
            if left > 0:
                self.run("PEXPIRE", key, round(left - seconds * 1000))
