"""What is remembered of the arguments of one call, for calls with the same names and classes."""

from __future__ import annotations

import asyncio
import datetime
import itertools
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from stream_cached import in_key, stream_cached
from stream_cached.endpoint import in_key as declarations
from tests.support.asgi import Exchange

ONE, OTHER = "one", b"other"


@stream_cached(ttl=60, key_ignore=("trace",))
async def endpoint(
    request: Request, a: Any = ONE, b: Any = OTHER, *rest: Any, c: Any = 1, trace: Any = 0
) -> Response:
    """Takes arguments in all ways."""
    raise NotImplementedError


#: Calls with the same key, beside each other.
ALIKE: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [
    [((), {}), ((), {"c": 1}), ((ONE, OTHER), {}), ((), {"trace": "x"}), ((), {"trace": object()})],
    [((5,), {}), ((), {"a": 5}), ((5, OTHER), {}), ((), {"b": OTHER, "a": 5, "c": 1})],
    [((ONE, 5), {}), ((), {"b": 5}), ((), {"a": ONE, "b": 5})],
    [((), {"c": True})],
    [((), {"c": 1.0})],
    [((), {"c": 0.0})],
    [((), {"c": -0.0})],
    [((), {"c": None})],
    [((), {"c": "1"})],
    [((), {"c": b"1"})],
    [((5, 6), {}), ((), {"b": 6, "a": 5})],
    [((5, 6, 7), {})],
    [((6, 5), {})],
    [((), {"c": datetime.date(2026, 1, 1)})],
    [((), {"c": datetime.date(2026, 1, 2)})],
]


def _request() -> Request:
    return Request(dict(Exchange(Starlette()).scope))


def _keys(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[str]:
    async def main() -> list[str]:
        return [await endpoint.cache_key(_request(), *args, **given) for args, given in calls]

    return asyncio.run(main())


@pytest.mark.parametrize("order", [1, -1])
def test_calls_have_the_same_key_if_their_arguments_say_the_same(order: int) -> None:
    numbered = [(n, call) for n, group in enumerate(ALIKE) for call in group][::order]
    keys = _keys([call for _, call in numbered] * 2)
    for (n, key), (other_n, other) in itertools.combinations(
        zip([n for n, _ in numbered] * 2, keys, strict=True), 2
    ):
        assert (key == other) == (n == other_n)


def test_what_is_said_of_a_class_later_counts_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declarations, "_declared", type(declarations._declared)())
    days = [((), {"c": datetime.date(2026, 1, day)}) for day in (1, 2)]
    assert len({*_keys(days)}) == 2
    in_key(datetime.date, lambda date: date.year)
    assert len({*_keys(days)}) == 1
