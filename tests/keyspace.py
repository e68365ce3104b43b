"""What stands in a Redis: a test looks at it, and damages it."""

from __future__ import annotations

from typing import Any

import redis

from tests.process import HOST


class Keyspace:
    """The keys of database 0 of the Redis at `port`."""

    def __init__(self, port: int) -> None:
        self._port = port

    def run(self, *words: str | bytes | int) -> Any:
        with redis.Redis(host=HOST, port=self._port) as client:
            return client.execute_command(*words)

    def all(self) -> dict[str, bytes]:
        keys = sorted(self.run("KEYS", "*"))
        return {key.decode(): self.run("GET", key) for key in keys}

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
