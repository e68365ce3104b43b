"""Values whose classes keep something beside the attributes and the fields of an instance."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import hashlib
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import pydantic
import pytest

from stream_cached.keys.canonical import NoCanonicalFormError, canonical
from stream_cached.keys.layout import hides_content

T = TypeVar("T")


@dataclasses.dataclass(init=False, eq=False)
class Tenant(str):
    region: str = "eu"


@attrs.define(init=False, slots=False, eq=False)
class Number(int):
    unit: str = "m"


@pytest.mark.parametrize("cls", [Tenant, Number])
def test_a_class_with_fields_over_text_or_a_number_has_both_in_its_form(cls: Any) -> None:
    assert canonical(cls("1")) == canonical(cls("1"))
    assert canonical(cls("1")) != canonical(cls("2"))
    other = cls("1")
    other.region = other.unit = "us"
    assert canonical(cls("1")) != canonical(other)


@dataclasses.dataclass(init=False)
class History(collections.deque[str]):
    name: str = ""


@dataclasses.dataclass(init=False)
class Row(sqlite3.Row):
    name: str = ""


def row() -> Row:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = Row
    found = connection.execute("select 'alice' as name").fetchone()
    connection.close()
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("value", [History(["alice"]), row()], ids=["deque", "Row"])
def test_a_class_with_fields_over_one_in_c_has_no_form(value: object) -> None:
    with pytest.raises(NoCanonicalFormError):
        canonical(value)


class Slots:
    __slots__ = ("__weakref__", "a")


class More(Slots):
    __slots__ = ("__dict__", "b")


class Model(pydantic.BaseModel, Generic[T]):
    a: int = 1


@pytest.mark.parametrize("cls", [Slots, More, Model, Model[int], type("Empty", (), {})])
def test_attributes_and_slots_are_not_hidden(cls: type) -> None:
    assert not hides_content(cls)


@pytest.mark.parametrize(
    "cls", [type(hashlib.sha256()), sqlite3.Row, collections.deque, ValueError]
)
def test_what_a_class_in_c_holds_is_hidden(cls: type) -> None:
    assert hides_content(cls)
    assert hides_content(type("Derived", (cls,), {})) if cls is not type(hashlib.sha256()) else True


class Apart:
    """A descriptor that keeps its values apart from the instances."""

    def __init__(self) -> None:
        self._values: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return "" if instance is None else self._values.get(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        self._values[instance] = value


@dataclasses.dataclass(eq=False)
class Kept:
    owner: Any = Apart()


def test_what_a_descriptor_keeps_apart_is_in_the_form() -> None:
    assert canonical(Kept("alice")) == canonical(Kept("alice"))
    assert canonical(Kept("alice")) != canonical(Kept("bob"))


# -- the class itself -----------------------------------------------------------------------------


@dataclasses.dataclass
class Context:
    tenant: ClassVar[str] = ""


class Money(decimal.Decimal):
    tenant = ""


class Settings(pydantic.BaseModel):
    tenant: ClassVar[str] = ""


class Word(str):
    tenant = ""


class Plan(enum.Enum):
    FREE = 1


class Child(Context):
    pass


VALUES: dict[str, Callable[[], Any]] = {
    "a dataclass": Context,
    "a number": lambda: Money("1"),
    "a model": Settings,
    "a text": lambda: Word("a"),
    "a member": lambda: Plan.FREE,
    "a list of them": lambda: [Context()],
}


@pytest.fixture(params=VALUES)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    yield VALUES[request.param]
    for cls in (Context, Money, Settings, Word, Plan):
        cls.tenant = ""  # type: ignore[union-attr]


def test_what_a_request_puts_on_the_class_of_a_value_is_in_its_form(
    make: Callable[[], Any],
) -> None:
    value = make()
    cls: Any = type(value[0] if isinstance(value, list) else value)
    forms = []
    for tenant in ("alice", "bob", "alice"):
        cls.tenant = tenant
        forms.append(canonical(make()))
    assert forms[0] == forms[2] != forms[1]


def test_so_is_what_a_request_puts_on_a_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    before = canonical(Child())
    monkeypatch.setattr(Context, "tenant", "alice")
    assert canonical(Child()) != before


def test_a_list_on_a_member_of_an_enum_is_in_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = []
    for name in ("alice", "bob"):
        monkeypatch.setattr(Plan.FREE, "names", [name], raising=False)
        forms.append(canonical(Plan.FREE))
    assert forms[0] != forms[1]
    monkeypatch.setattr(Plan.FREE, "names", [object()])
    assert canonical(Plan.FREE)
