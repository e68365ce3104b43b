"""The options: declared once, the same in signature, fields and documentation; and `Limits`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from cashews import Cache

import stream_cached.cashews
from stream_cached import ConfigurationError, Limits, MemoryCache
from stream_cached import stream_cached as cached
from stream_cached.limits import LIMITS, MAX_VARIANTS, VALUE_SIZE
from stream_cached.option_checks import NOT_GIVEN
from stream_cached.options import Options
from tests.support.process import ROOT

#: Keyword-only parameters that are no field of `Options`: the decorator resolves a fallback itself.
NO_FIELDS = {"fallback"}

PARAMETERS = inspect.signature(cached.__init__).parameters
KEYWORDS = {name: p.default for name, p in PARAMETERS.items() if p.kind is p.KEYWORD_ONLY}
FIELDS = {field.name: field for field in dataclasses.fields(Options)}


async def report(user: str = "") -> str:
    return user


def options_of(decorator: Any) -> Options:
    assert isinstance(decorator.options, Options)
    return decorator.options


#: Each makes a decorator of keyword arguments.
DECORATORS: dict[str, Callable[..., Any]] = {
    "aiocache": functools.partial(cached, ttl=60),
    "cashews": functools.partial(stream_cached.cashews.stream_cached, Cache(), 60),
}

each_decorator = pytest.mark.parametrize("decorator", DECORATORS.values(), ids=DECORATORS)


# -- declared once --------------------------------------------------------------------------------


def test_the_keyword_parameters_are_the_fields() -> None:
    assert [name for name in KEYWORDS if name not in NO_FIELDS] == list(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_the_default_of_the_parameter_is_that_of_the_field(name: str) -> None:
    make = FIELDS[name].default_factory
    assert make is not dataclasses.MISSING
    assert KEYWORDS[name] == make()


def test_the_decorators_have_the_default_options_unless_told() -> None:
    assert options_of(cached()) == Options()
    assert options_of(DECORATORS["cashews"]()) == Options()
    # As in cashews, any status is stored that is no part of another response.
    statuses = frozenset(range(200, 600)) - {206, 304}
    assert Options(statuses=statuses) == stream_cached.cashews.entries.OPTIONS


def test_options_are_the_same_once_checked_again() -> None:
    given: dict[str, Any] = {
        "vary": ("Accept",),
        "methods": ("get",),
        "limits": Limits(max_body="1KiB", inline_max=0),
        "timeout": 2,
        "secret": "secret",
        "authorized": "vary",
        "key_args": {"user": str},
        "key_ignore": ("session",),
        "unguarded": ("cookie", "X-Header", "state.user", "scope.client", "header.Accept"),
    }
    options = Options(**given)
    assert dataclasses.replace(options) == options
    assert options.secret == options.secrets == (b"secret",)
    assert options.vary == {"Accept": None, "Authorization": None}


# -- documented -----------------------------------------------------------------------------------


def arguments_of(cls: type) -> list[str]:
    """Return the names in the `Args:` section of a docstring."""
    section = (inspect.getdoc(cls) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    return re.findall(r"^    (\w+): ", section, flags=re.MULTILINE)


def test_the_docstring_names_all_parameters_in_their_order() -> None:
    assert arguments_of(cached) == [name for name in PARAMETERS if name != "self"]


def test_the_docstring_of_limits_names_all_fields_in_their_order() -> None:
    assert arguments_of(Limits) == list(LIMITS)


def test_the_table_of_options_has_a_row_for_each() -> None:
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert {*KEYWORDS, *LIMITS} <= set(rows)
    assert len(rows) == len(set(rows))


# -- limits ---------------------------------------------------------------------------------------


def test_the_defaults_of_limits() -> None:
    assert dataclasses.asdict(Limits()) == {
        "max_body": 64 * 2**20,
        "max_duration": 600.0,
        "max_pending": 8 * 2**20,
        "max_ahead": 2**20,
        "max_variants": 64,
        "inline_max": VALUE_SIZE,
        "local": 16 * 2**20,
        "spool_max": 256 * 2**20,
        "finish_timeout": 30.0,
        "held_finish_timeout": 5.0,
        "wait_timeout": None,
        "retry_interval": 1.0,
        "live_window": 64 * 2**20,
        "max_uploads": 8,
        "commit_timeout": 1.0,
        "grace": None,
    }


def test_a_size_is_a_number_or_a_text() -> None:
    limits = Limits(max_body="64KiB", max_ahead=1, inline_max="1GB")
    assert (limits.max_body, limits.max_ahead) == (65536, 1)
    assert limits.inline_max == VALUE_SIZE
    assert limits == dataclasses.replace(limits)
    assert limits == Limits(max_body=65536, max_ahead="1", inline_max=VALUE_SIZE)


def test_limits_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().max_body = 5  # type: ignore[misc]


WRONG = (None, "", -1, True, "much", math.nan, [5])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in LIMITS
        for value in WRONG
        # The only ones that may be None.
        if (name, value) not in (("wait_timeout", None), ("grace", None))
    ],
)
def test_a_wrong_limit_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Limits(**{name: value})
    assert str(refused.value).startswith(f"{name}={value!r}: ")
    for decorator in DECORATORS.values():
        with pytest.raises(ConfigurationError) as again:
            decorator(**{name: value})
        assert str(again.value) == str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_body": 0}, "max_body=0: pass a whole number, 1 or more"),
        ({"max_body": "x"}, "max_body='x': 'x' is no size in bytes: write 64MiB, for example"),
        ({"max_pending": VALUE_SIZE - 1}, f"pass a whole number, {VALUE_SIZE} or more"),
        ({"max_variants": MAX_VARIANTS + 1}, "max_variants=10001: pass 10,000 at the most"),
        ({"wait_timeout": 0}, "wait_timeout=0: pass a number of seconds above 0"),
    ],
)
def test_the_message_says_what_to_write(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Limits(**settings)


# -- limits of a decorator ------------------------------------------------------------------------


@each_decorator
def test_limits_are_taken_as_a_group(decorator: Callable[..., Any]) -> None:
    limits = Limits(max_body="1MiB", retry_interval=5)
    options = options_of(decorator(limits=limits))
    assert options == Options(limits=limits)


@each_decorator
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_body", "1MiB", 2**20),
        ("max_duration", 5, 5.0),
        ("max_pending", 1_000_000, 1_000_000),
        ("max_ahead", "1KiB", 1024),
        ("max_variants", 3, 3),
        ("inline_max", 0, 0),
        ("spool_max", "1GB", 10**9),
        ("finish_timeout", 1, 1.0),
        ("held_finish_timeout", 1, 1.0),
        ("wait_timeout", 0.5, 0.5),
        ("retry_interval", 2, 2.0),
        ("live_window", "1MB", 10**6),
        ("max_uploads", 3, 3),
        ("commit_timeout", 5, 5.0),
        ("grace", 60, 60.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_each_limit_is_taken_by_its_own_name(
    decorator: Callable[..., Any], name: str, value: Any, expected: float
) -> None:
    options = options_of(decorator(**{name: value}))
    assert getattr(options.limits, name) == expected
    assert options == Options(limits=Limits(**{name: value}))


@each_decorator
def test_a_single_limit_overrides_the_group(decorator: Callable[..., Any]) -> None:
    limits = Limits(max_body=5, max_variants=3)
    options = options_of(decorator(limits=limits, max_body=10))
    assert options.limits == Limits(max_body=10, max_variants=3)
    assert limits.max_body == 5


@each_decorator
@pytest.mark.parametrize("limits", [{"max_body": 5}, None, 5, Limits])
def test_other_limits_are_refused(decorator: Callable[..., Any], limits: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass Limits") as refused:
        decorator(limits=limits)
    assert str(refused.value).startswith(f"limits={limits!r}: ")
    with pytest.raises(ConfigurationError, match="pass Limits"):
        decorator(limits=limits, max_body=5)


@each_decorator
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vary": "Accept"}, "vary=('Accept',)"),
        ({"vary": None}, "vary=None: pass a tuple, vary=('Accept',)"),
        ({"vary": 5}, "vary=5: pass a tuple"),
        ({"vary": ([],)}, "vary=[] is no name of a header"),
        ({"methods": ()}, "methods=(): pass a tuple of names"),
        ({"methods": "POST"}, "methods='POST': pass a tuple of names"),
        ({"methods": None}, "methods=None: pass a tuple"),
        ({"methods": ([],)}, "methods=([],): pass a tuple of names"),
        ({"statuses": 404}, "statuses=404: pass a tuple, statuses=(404,)"),
        ({"statuses": ([],)}, "pass final status codes"),
        ({"statuses": (206,)}, "206"),
        ({"on_disconnect": "wait"}, 'on_disconnect=\'wait\': pass "finish" or "stop"'),
        ({"stale_while_revalidate": -1}, "stale_while_revalidate=-1: pass a number of seconds"),
        ({"stale_if_error": True}, "stale_if_error=True: pass a number of seconds above 0"),
        ({"timeout": "1"}, "timeout='1': pass a number of seconds above 0"),
        ({"secret": ()}, "secret= has to be"),
        ({"bodies": 5}, 'bodies=5: pass a URL, "file:///var/cache/app", or a store of bodies'),
        ({"bodies": "redis://host"}, "bodies='redis://host' has an unknown scheme: use file://"),
        ({"replay": None}, 'replay=None: pass "fast" or "exact"'),
        ({"resume": 1}, 'resume=1: pass True, False or "event-id"'),
        ({"authorized": True}, "authorized=True: pass one of 'bypass', 'vary'"),
        ({"key_host": None}, "key_host=None: pass True or False"),
        ({"request_key": 0}, "request_key=0: pass True or False"),
        ({"request_key": False, "vary": ("Accept",)}, "vary= is about the request"),
        ({"request_key": False, "authorized": "vary"}, "authorized= is about the request"),
        ({"key_args": str}, "pass functions by name"),
        ({"key_ignore": "user"}, "key_ignore=('user',)"),
        ({"key_ignore": 5}, "key_ignore=5: pass a tuple"),
        ({"unguarded": None}, "unguarded=None: pass a tuple"),
        ({"unguarded": ("state",)}, "unguarded='state': pass the name of a header"),
    ],
)
def test_a_wrong_option_is_refused(
    decorator: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        decorator(**settings)


def test_all_other_keyword_arguments_go_to_the_class_of_the_cache() -> None:
    decorator = cached(cache=MemoryCache, max_bytes=1024, max_body=5)
    endpoint = decorator(report)
    assert isinstance(endpoint.cache, MemoryCache)
    assert endpoint.cache.memory.max_bytes == 1024
    with pytest.raises(ConfigurationError, match="unknown parameter 'max_boddy'"):
        cached(max_boddy=5)(report)
    with pytest.raises(ConfigurationError, match="MemoryCache does not accept"):
        cached(cache=MemoryCache, max_boddy=5)(report)


def test_the_representation_shows_no_secret() -> None:
    assert "a secret" not in repr(Options(secret=(b"a secret of 32 bytes",)))


# -- what follows from the options ----------------------------------------------------------------


def test_stop_leaves_no_time_to_finish() -> None:
    limits = Limits(max_duration=5, finish_timeout=2)
    finish = Options(limits=limits)
    stop = Options(limits=limits, on_disconnect="stop")
    assert (finish.effective_finish_timeout, finish.longest_run) == (2, 7)
    assert (stop.effective_finish_timeout, stop.longest_run) == (0, 5)


@pytest.mark.parametrize(("given", "kept"), [(0, 0), (None, None), (3, 3.0)])
def test_a_time_out_of_none_or_0_sets_no_bound(given: float | None, kept: float | None) -> None:
    assert Options().timeout is NOT_GIVEN
    assert Options(timeout=given).timeout == kept
