"""The size of a value is near what it takes, whatever it is made of."""

from __future__ import annotations

import array
import asyncio
import collections
import dataclasses
import datetime
import decimal
import gc
import threading
import tracemalloc
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import pydantic
import pytest
from starlette.datastructures import Headers

from stream_cached import ConfigurationError, MemoryCache, stream_cached
from stream_cached.stores import sizes
from stream_cached.stores.sizes import size_of

COUNT = 2000


@dataclasses.dataclass
class Row:
    number: int
    text: str


@dataclasses.dataclass(slots=True)
class Slotted:
    number: int
    text: str


@dataclasses.dataclass(slots=True, frozen=True)
class Frozen:
    number: int
    text: str


class Base:
    __slots__ = ("number",)


class Inherited(Base):
    """As attrs makes classes: slots of a base class, a state of its own."""

    __slots__ = ("__weakref__", "text")

    def __init__(self, number: int, text: str) -> None:
        self.number, self.text = number, text

    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number, "text": self.text}


class Tuple(NamedTuple):
    number: int
    text: str


class Model(pydantic.BaseModel):
    number: int
    text: str


class Mixed(Base):
    """Slots and a dict."""

    def __init__(self, number: int, text: str) -> None:
        self.number, self.text = number, text


class Locked(Row):
    """It can't be pickled."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, text)
        self.lock = threading.Lock()


class LockedSlots:
    __slots__ = ("lock", "text")

    def __init__(self, number: int, text: str) -> None:
        self.lock, self.text = threading.Lock(), text


class Unpicklable:
    """A class of a user, whose code may raise."""

    def __init__(self, number: int, text: str) -> None:
        self.text = text

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("no")


class List(list[Any]):
    """A class over a built-in one."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__([number])
        self.text = text


CLASSES = (
    Row,
    Slotted,
    Frozen,
    Inherited,
    Tuple,
    Mixed,
    Locked,
    LockedSlots,
    Unpicklable,
    List,
)


def rows_of(cls: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: [cls(number, f"{number}-" + "y" * 300) for number in range(COUNT)]


def texts(kind: str = "y") -> list[str]:
    return [f"{number}-" + kind * 300 for number in range(COUNT)]


def nested() -> Any:
    value: Any = None
    for text in texts():
        value = [text, value]
    return value


VALUES: dict[str, Callable[[], Any]] = {
    **{cls.__name__: rows_of(cls) for cls in CLASSES},
    "Model": lambda: [Model(number=n, text=text) for n, text in enumerate(texts())],
    "deque": lambda: collections.deque(texts()),
    "set": lambda: set(texts()),
    "OrderedDict": lambda: collections.OrderedDict(enumerate(texts())),
    "defaultdict": lambda: collections.defaultdict(lambda: None, enumerate(texts())),
    "Counter": lambda: collections.Counter(texts()),
    "not ASCII": lambda: texts("ü"),
    "bytearray": lambda: [bytearray(300) for _ in range(COUNT)],
    "array": lambda: array.array("d", range(100_000)),
    "floats": lambda: [number / 7 for number in range(20_000)],
    "integers": lambda: list(range(1000, 21_000)),
    "moments": lambda: [datetime.datetime.fromtimestamp(n) for n in range(5000)],
    "decimals": lambda: [decimal.Decimal(n) / 7 for n in range(5000)],
    "ids": lambda: [uuid.uuid4() for _ in range(5000)],
    "headers": lambda: [Headers({"x": text}) for text in texts()],
    "nested": nested,
    "a response's parts": lambda: {"rows": (texts(), {"more": texts()})},
}


@pytest.mark.matrix(share=6, rest=3)
@pytest.mark.parametrize("kind", VALUES)
def test_the_size_of_a_value_is_near_what_it_takes(kind: str) -> None:
    make = VALUES[kind]
    make()
    # What the other tests have left is not looked through again.
    gc.collect()
    gc.freeze()
    tracemalloc.start()
    try:
        value = make()
        taken, _ = tracemalloc.get_traced_memory()
        size = size_of(value)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    assert taken * 0.8 < size < taken * 2
    # Counting leaves nothing behind, such as the UTF-8 of a text. (Python makes the dict of an
    # object when it is asked for.)
    assert after < taken * 1.2


def test_one_object_counts_once() -> None:
    text = "y" * 10_000
    assert size_of([text] * 100) < 12_000
    row = Slotted(1, text)
    assert size_of([row] * 100) < 12_000


def test_a_value_that_holds_itself_has_a_size() -> None:
    value: list[Any] = ["y" * 1000]
    value.append(value)
    assert 1000 < size_of(value) < 2000


def test_classes_and_functions_are_referred_to() -> None:
    class Local:
        text = "y" * 10_000

    assert size_of([Local, Local(), size_of, sizes, len]) < 5000


@pytest.mark.parametrize("cls", [Slotted, Inherited, Model])
def test_the_bound_holds_for_values(cls: Callable[..., Any]) -> None:
    async def test() -> None:
        cache = MemoryCache(max_bytes="1MiB")
        cached: Any = stream_cached(ttl=60, cache=cache)

        async def rows(number: int) -> Any:
            return [cls(number=n, text=f"{number}-{n}-" + "y" * 1000) for n in range(100)]

        call = cached(rows)
        for number in range(50):
            await call(number)
        assert 3 <= len([key for key in cache.sizes() if ":version:" not in key]) <= 10

    asyncio.run(test())


@pytest.mark.parametrize(
    ("given", "size"), [("16MiB", 16 << 20), ("1000", 1000), ("1 kb", 1000), (5000, 5000)]
)
def test_a_bound_may_be_a_text_as_in_a_url(given: Any, size: int) -> None:
    assert MemoryCache(max_bytes=given).memory.max_bytes == size


@pytest.mark.parametrize("given", ["", "much", "-1", "0", 0, -1, 1.5, None, True, "1 MiB 2"])
def test_a_bound_that_is_no_size_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_bytes="):
        MemoryCache(max_bytes=given)
