"""The rules of HTTP, one record at a time, against the pure functions."""

from __future__ import annotations

import pytest

from stream_cached.http.conditions import Failed, NotModified, evaluate
from stream_cached.http.freshness import Lifetime, lifetime_of
from stream_cached.http.ranges import Part, Unsatisfiable
from stream_cached.http.vary import selecting_value
from tests.http.rules import ALIKE, ASKED, BODY, FRESH, NOW, Alike, Asked, Fields, Fresh, raw


@pytest.mark.parametrize("rule", FRESH, ids=str)
def test_for_how_long_a_response_is_fresh(rule: Fresh) -> None:
    found = lifetime_of(
        rule.status,
        raw(rule.given),
        asked_at=NOW - rule.delay,
        received=NOW,
        heuristic=rule.heuristic,
        targets=rule.targets,
    )
    if isinstance(found, Lifetime):
        assert found.fresh_until - NOW == rule.then
    else:
        assert found.word == rule.then


@pytest.mark.parametrize(
    ("given", "fresh_until"),
    [
        ({"Cache-Control": "no-cache, max-age=60"}, NOW),
        ({"Cache-Control": "max-age=0"}, NOW),
        ({"Cache-Control": "max-age=60", "Age": "90"}, NOW - 30),
        ({"Cache-Control": "max-age=60", "Date": "Mon, 01 Jan 0001 00:00:00 GMT"}, 0),
        ({"Expires": "0"}, NOW),
        ({}, None),
    ],
)
def test_a_response_that_can_be_validated_need_not_be_fresh(
    given: Fields, fresh_until: float | None
) -> None:
    found = lifetime_of(200, raw(given), asked_at=NOW, received=NOW, is_validated=True)
    assert (found.fresh_until if isinstance(found, Lifetime) else None) == fresh_until


@pytest.mark.parametrize("rule", ASKED, ids=str)
def test_what_a_request_with_conditions_is_sent(rule: Asked) -> None:
    found = evaluate(
        rule.method,
        raw(rule.request),
        rule.status,
        raw(rule.response),
        len(rule.body),
        rule.stored_at,
    )
    match found:
        case None:
            assert rule.then == rule.status
        case NotModified():
            assert rule.then == 304
        case Failed():
            assert rule.then == 412
        case Unsatisfiable():
            assert rule.then == 416
        case Part(start, stop):
            assert rule.then == BODY[start:stop]


@pytest.mark.parametrize("rule", ALIKE, ids=str)
def test_which_requests_select_the_same_response(rule: Alike) -> None:
    one, other = (
        selecting_value(rule.name, [line.encode("latin-1") for line in lines])
        for lines in (rule.one, rule.other)
    )
    assert (one == other) is rule.then
