"""Which function uses a key: two functions with one key are given each other's values."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

from stream_cached.backends.binding import Binding
from stream_cached.stores.clients import Clients

#: How many keys are remembered for each server or memory.
_MAX_KEYS = 10_000

#: By server or memory: the first function that has used a key. Keys are those with a namespace.
_users: WeakKeyDictionary[Any, OrderedDict[tuple[object, str], str]] = WeakKeyDictionary()


def user_of(binding: Binding, key: str, function: str) -> str:
    """Return the name of the function that has a key; the given one's if it was nobody's."""
    users = _users.setdefault(binding.breaker or Clients.of(binding.cache), OrderedDict())
    user = users.setdefault((binding.cache.namespace, key), function)
    if len(users) > _MAX_KEYS:
        users.popitem(last=False)
    return user
