"""Classes that a function makes: two of one name may differ in what their methods hold."""

import collections
import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import pytest
from pydantic import BaseModel, PrivateAttr, computed_field, field_validator

from stream_cached.keys.canonical import NoCanonicalFormError, canonical

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T] = []


def plain_dataclass(user: str) -> object:
    @dataclasses.dataclass
    class Made:
        limit: int = 1
        names: list[str] = dataclasses.field(default_factory=list)

    return Made()


def model(user: str) -> object:
    class Made(BaseModel):
        limit: int = 1
        _seen: int = PrivateAttr(default=2)

        class Inner(BaseModel):
            limit: int = 1

        @field_validator("limit")
        @classmethod
        def positive(cls, value: int) -> int:
            return value

        @computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return 2 * self.limit

    return Page[Made](items=[Made()])


def attrs_class(user: str) -> object:
    @attrs.define
    class Made:
        limit: int = 1

        def __str__(self) -> str:
            return super().__str__()

    return Made()


def member(user: str) -> object:
    class Made(enum.StrEnum):
        ALL = "all"

    return Made.ALL


def named_tuple(user: str) -> object:
    class Made(NamedTuple):
        limit: int = 1

    return Made()


def dictionary(user: str) -> object:
    class Made(dict[str, int]):
        pass

    return Made(limit=1)


def tuple_by_call(user: str) -> object:
    made: Any = collections.namedtuple("made", "limit")
    return made(1)


@pytest.mark.parametrize(
    "make",
    [plain_dataclass, model, attrs_class, member, named_tuple, dictionary, tuple_by_call],
)
def test_classes_made_alike_have_one_form(make: Callable[[str], object]) -> None:
    assert canonical(make("alice")) == canonical(make("bob"))


def by_variable(user: str) -> object:
    @dataclasses.dataclass(slots=True)
    class Made:
        def owner(self) -> str:
            return user

    return Made()


def by_default(user: str) -> object:
    @attrs.define
    class Made:
        def owner(self, name: str = user) -> str:
            return name

    return Made()


def by_attribute(user: str) -> object:
    class Made(str):
        name = user

    return Made("rows")


def by_text_about_it(user: str) -> object:
    class Made(str): ...

    Made.__doc__ = user
    return Made("rows")


def by_property(user: str) -> object:
    class Made(NamedTuple):
        limit: int = 1

        @property
        def owner(self) -> str:
            return user

    return Made()


def by_inner_function(user: str) -> object:
    def owner() -> str:
        return user

    class Made(BaseModel):
        @classmethod
        def owner(cls) -> str:
            return owner()

    return Made()


def by_inner_class(user: str) -> object:
    class Made(BaseModel):
        class Config:
            title = user

    return Made()


def by_base_class(user: str) -> object:
    class Base:
        owner = staticmethod(lambda: user)

    @dataclasses.dataclass
    class Made(Base):
        limit: int = 1

    return Made()


def by_branch(user: str) -> object:
    if user == "alice":

        class Made(str):
            def owner(self) -> str:
                return "alice"

        return Made()

    class Made(str):  # type: ignore[no-redef]
        def owner(self) -> str:
            return "bob"

    return Made()


MAKERS = [
    *(by_variable, by_default, by_attribute, by_text_about_it, by_property),
    *(by_inner_function, by_inner_class),
    *(by_base_class, by_branch),
]


@pytest.mark.filterwarnings("ignore:Support for class-based `config`")
@pytest.mark.parametrize("make", MAKERS)
def test_what_a_class_is_made_over_is_in_the_form(make: Callable[[str], object]) -> None:
    assert canonical(make("alice")) == canonical(make("alice"))
    assert canonical(make("alice")) != canonical(make("bob"))


def test_a_class_over_a_value_without_a_form_has_none() -> None:
    def make(held: Any) -> object:
        class Made(BaseModel):
            def held(self) -> Any:
                return held

        return Made()

    with pytest.raises(NoCanonicalFormError, match=r"builtins\.object"):
        canonical(make(object()))
