"""Which tests `make test` runs: of a matrix only some combinations, of the slow ones none.

What carries the marker `full` is left out of `make test`. A test that has a store among its
parameters runs with one store for each combination of the others, unless it is marked
`every_store`; which one that is changes from combination to combination. A test that is marked
`matrix` has `full` on all its combinations of parameters, except those that show each value of each
parameter once; with `matrix("one", "other")` they show each pair of values of these two, too. Of
those, `matrix(share=3)` leaves a third.

`.ci/run` runs what is `full`, too, but not what is `rest`, for which it has no time: of a matrix,
every second one of the combinations that `make test` leaves out (with `matrix(rest=3)`, two of
three), and of the other stores every second one (with `matrix(one_store=True)`, all); of a test
that is `full` as a whole, every second one of the parameters that are `halved()`.
`make test-full` runs all.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

_QUICK = "not full"

#: What `.ci/run` runs beside `make test`.
_FULL = "full and not rest"

#: Our own, and those of cashews.
_STORES = frozenset(
    {"memory", "redis", "memcached", "mem", "disk", "redis that raises", "redis with client_side"}
)

#: How many examples Hypothesis tries by default.
_EXAMPLES = 100


def is_quick(config: pytest.Config) -> bool:
    """Whether this run leaves out what is marked `full`."""
    return bool(config.option.markexpr == _QUICK)


def examples(count: int = 100) -> settings:
    """Settings of Hypothesis: so many examples in a full run, a fifth of them in a quick one."""
    return settings(max_examples=count * settings().max_examples // _EXAMPLES)


def load_profile(config: pytest.Config) -> None:
    """
    Let Hypothesis know whether the run is a full one. To be called before tests are imported.

    Each run tries the same examples, so that a change that fails is the one to blame. Another
    `--hypothesis-seed` tries others.
    """
    is_same = config.getoption("hypothesis_seed", None) is None
    kwargs: dict[str, Any] = {"deadline": None, "derandomize": is_same}
    settings.register_profile("full", max_examples=_EXAMPLES, **kwargs)
    settings.register_profile("quick", max_examples=_EXAMPLES // 5, **kwargs)
    settings.load_profile("quick" if is_quick(config) else "full")


def share(values: Mapping[str, T], of: Iterable[str], name: str) -> list[T]:
    """
    Return all values in a full run; in a quick one the share of one of those who try them.

    Args:
        values: What there is to try.
        of: The names of those who try them: together they try all.
        name: Whose share it is.
    """
    names = [*of]
    step = 1 if settings().max_examples == _EXAMPLES else min(len(names), len(values))
    return [*values.values()][names.index(name) % step :: step]


def halved(names: Iterable[str], first: int = 0) -> list[Any]:
    """Return parameters for a test that is `full`: every second is `rest`, too, from `first` on."""
    return [
        name if number % 2 != first else pytest.param(name, marks=pytest.mark.rest)
        for number, name in enumerate(names)
    ]


def no_address(value: object) -> str:
    """The id of a value among parameters: all processes of a run have to give it the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def thin_out(combinations: Collection[pytest.Item]) -> None:
    """Mark as `full` what a quick run does not need of the combinations of one test."""
    candidates = [
        item
        for item in combinations
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and not item.get_closest_marker("full")
    ]
    candidates = _with_one_store(candidates)
    marker = candidates[0].get_closest_marker("matrix") if candidates else None
    if marker is None:
        return
    chosen = sorted(_chosen([set(_shown(item)) for item in candidates]))
    share, rest = marker.kwargs.get("share", 1), marker.kwargs.get("rest", 2)
    for number, item in enumerate(candidates):
        if number not in chosen[::share]:
            item.add_marker("full")
            if number % rest:
                item.add_marker("rest")


def _with_one_store(candidates: list[pytest.Function]) -> list[pytest.Function]:
    """Choose one store for each combination of the other parameters."""
    if not candidates or candidates[0].get_closest_marker("every_store"):
        return candidates
    groups = defaultdict[Hashable, list[pytest.Function]](list)
    for item in candidates:
        values = item.callspec.params.items()
        groups[tuple((n, _identity(v)) for n, v in values if not _is_store(v))].append(item)
    # Not one and the same for all tests, and the same in each process of a run.
    first = zlib.crc32(candidates[0].nodeid.partition("[")[0].encode())
    marker = candidates[0].get_closest_marker("matrix")
    is_rest = marker is not None and marker.kwargs.get("one_store", False)
    chosen = []
    for number, group in enumerate(groups.values()):
        chosen.append(group.pop((first + number) % len(group)))
        for place, item in enumerate(group):
            item.add_marker("full")
            if is_rest or place % 2:
                item.add_marker("rest")
    return chosen


def _is_store(value: object) -> bool:
    return isinstance(value, str) and value in _STORES


def leaves_out(config: pytest.Config, item: pytest.Item) -> bool:
    """Whether a run of one of the two halves of the tests leaves out a test: it is in the other."""
    is_full = item.get_closest_marker("full") is not None
    if config.option.markexpr == _FULL:
        return not is_full or item.get_closest_marker("rest") is not None
    return bool(config.option.markexpr == (_QUICK if is_full else "full"))


def _shown(item: pytest.Function) -> Iterator[Hashable]:
    """The values that a combination shows."""
    values = {name: _identity(value) for name, value in item.callspec.params.items()}
    yield from values.items()
    marker = item.get_closest_marker("matrix")
    assert marker is not None
    if marker.args:
        yield tuple(values[name] for name in marker.args)


def _identity(value: object) -> Hashable:
    """What stands for a value, which may be one that has no hash, or equals one of another type."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _chosen(shown: list[set[Hashable]]) -> set[int]:
    """The numbers of a few sets that have all elements: always one that has most of the others."""
    left = set[Hashable]().union(*shown)
    chosen = set[int]()
    while left:
        best = max(range(len(shown)), key=lambda number: len(shown[number] & left))
        chosen.add(best)
        left -= shown[best]
    return chosen
