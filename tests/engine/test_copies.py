"""Copies of plain values: equal, and of one's own; a live object is refused."""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import io
import threading
import types
import uuid
import weakref
from collections.abc import Iterator
from pathlib import PurePath, PurePosixPath
from typing import Any, NamedTuple

import fastapi
import pytest
from pydantic import BaseModel, HttpUrl, PrivateAttr, SecretStr
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from stream_cached.engine.copies import NotCopyableError, copied, why_not_copied


class Colour(enum.Enum):
    RED = ("r", 1)


class Pair(NamedTuple):
    one: list[int]
    two: int


class Model(BaseModel, extra="allow"):
    items: list[int]
    _private: dict[str, list[int]] = PrivateAttr(default_factory=dict)


@dataclasses.dataclass
class Plain:
    items: list[int]


@dataclasses.dataclass(slots=True, frozen=True)
class Frozen:
    items: list[int]


class Slotted:
    __slots__ = ("__hidden", "items")

    def __init__(self) -> None:
        self.items, self.__hidden = [1], [2]

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Slotted)
        return (self.items, self.__hidden) == (other.items, other.__hidden)

    __hash__ = None  # type: ignore[assignment]


class OwnWay:
    """As numpy's arrays: it says itself how it is copied."""

    def __init__(self, items: list[int]) -> None:
        self.items = items
        self.lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> OwnWay:
        return OwnWay(copy.deepcopy(self.items))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnWay) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]


MODEL = Model(items=[1], more={"a": [2]})  # type: ignore[call-arg]
MODEL._private["a"] = [3]

DATA: list[Any] = [
    None,
    True,
    1.5,
    "text",
    b"bytes",
    bytearray(b"bytes"),
    decimal.Decimal("1.1"),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    uuid.UUID(int=1),
    PurePosixPath("/a"),
    Colour.RED,
    int,
    [1, [2, {"a": (3, [4])}]],
    {(1, 2): {3, 4}, "b": frozenset([5])},
    collections.OrderedDict(a=[1]),
    collections.defaultdict(list, a=[1]),
    collections.Counter("aab"),
    collections.deque([1, [2]], maxlen=2),
    Pair([1], 2),
    MODEL,
    Plain([1]),
    Frozen([1]),
    Slotted(),
    OwnWay([1]),
    HttpUrl("http://example.org"),
    SecretStr("secret"),
]


def mutable_parts(value: Any) -> Iterator[Any]:
    """The lists, sets and dicts that a value holds."""
    if isinstance(value, dict | list | set | bytearray | collections.deque):
        yield value
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    elif not isinstance(value, list | tuple | set | frozenset | collections.deque):
        state = dict(getattr(value, "__dict__", {}))
        names = [n for cls in type(value).__mro__ for n in getattr(cls, "__slots__", ())]
        state |= {n: getattr(value, n) for n in names if hasattr(value, n) and n != "__dict__"}
        value = [] if isinstance(value, type | enum.Enum | PurePath) else state.values()
    for each in value:
        yield from mutable_parts(each)


@pytest.mark.parametrize("value", DATA, ids=lambda value: type(value).__name__)
def test_data_is_copied_as_a_whole(value: Any) -> None:
    ours = copied(value)
    assert ours == value
    assert type(ours) is type(value)
    shared = {id(each) for each in mutable_parts(value)} & {id(e) for e in mutable_parts(ours)}
    assert not shared
    assert why_not_copied(value) == ""


def test_what_is_there_twice_is_one_and_a_cycle_ends() -> None:
    shared: list[Any] = []
    ours = copied({"a": shared, "b": shared})
    assert ours["a"] is ours["b"] is not shared
    shared.append(shared)
    cycle = copied(shared)
    assert cycle[0] is cycle is not shared


def test_a_deque_keeps_its_length() -> None:
    assert copied(collections.deque([1], maxlen=3)).maxlen == 3


class Base(DeclarativeBase):
    pass


class Hero(Base):
    __tablename__ = "hero"
    id: Mapped[int] = mapped_column(primary_key=True)


def row(*, whole: bool) -> Any:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Hero(id=1))
        session.commit()
        return session.get(Hero, 1) if whole else session.execute(select(Hero.id)).all()


class App:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Cursor:
    def __next__(self) -> int:
        return 1


class Handle:
    def __enter__(self) -> None: ...
    def __exit__(self, *exc_info: object) -> None: ...


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


async def _coroutine() -> None: ...


def deep(depth: int = 100_000) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


LIVE: dict[str, tuple[Any, str]] = {
    "a row of a session": (row(whole=True), "Hero"),
    "rows of a session": ([row(whole=True)], "list, which holds Hero"),
    "a row beside a session": (row(whole=False), "list, which holds Row"),
    "a row of no session": (Hero(id=2), "Hero"),
    "a session": (Session(), "Session"),
    "an iterator": (iter([1]), "list_iterator"),
    "a generator": ((n for n in "ab"), "generator"),
    "a generator in a dict": ({"rows": (n for n in "ab")}, "dict, which holds generator"),
    "an iterator of one's own": (Cursor(), "Cursor"),
    "a file": (io.BytesIO(), "BytesIO"),
    "a context manager": (Handle(), "Handle"),
    "an application": (App(), "App"),
    "FastAPI": (fastapi.FastAPI(), "FastAPI"),
    "a function": (row, "function"),
    "a lock": (threading.Lock(), "lock"),
    "an object with a lock": (Holder(threading.Lock()), "Holder"),
    "a module": (types, "module"),
    "a reference": (weakref.ref(App), "ReferenceType"),
    "an exception": (ValueError(), "ValueError"),
}


@pytest.mark.parametrize(("value", "name"), LIVE.values(), ids=LIVE)
def test_a_live_object_is_refused_by_the_name_of_its_type(value: Any, name: str) -> None:
    assert why_not_copied(value) == name
    with pytest.raises(NotCopyableError):
        copied(value)


def test_what_is_nested_too_deeply_is_refused() -> None:
    value = deep()
    assert why_not_copied(value) == "list"
    with pytest.raises(NotCopyableError):
        copied(value)


def test_a_coroutine_is_refused() -> None:
    coroutine = _coroutine()
    assert why_not_copied(coroutine) == "coroutine"
    asyncio.run(coroutine)
