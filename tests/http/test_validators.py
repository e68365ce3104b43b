"""What a validator says, as the text of an entity tag (RFC 9110, section 8.8.3)."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.http.validators import opaque_of, weak_tag

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "opaque"),
    [
        (None, None),
        ("v1", "v1"),
        ('"v1"', "v1"),
        ('W/"v1"', "v1"),
        (NOON, "2026-01-01T12:00:00+00:00"),
        (NOON.astimezone(timezone(timedelta(hours=5))), "2026-01-01T12:00:00+00:00"),
        (date(2026, 1, 1), "2026-01-01"),
        (("v1", NOON), "v1@2026-01-01T12:00:00+00:00"),
        (("v1", None), "v1"),
        ((None, None), None),
    ],
)
def test_it_is_the_same_text_for_the_same_state(said: Any, opaque: str | None) -> None:
    assert opaque_of(said) == opaque


@pytest.mark.parametrize("said", [7, b"v1", True, ("v1", 7), object()])
def test_what_is_no_tag_and_no_time_is_an_error(said: Any) -> None:
    with pytest.raises(TypeError, match="returns a str, a datetime or both"):
        opaque_of(said)


@given(st.text(), st.text())
def test_any_text_makes_a_tag_and_different_ones_differ(one: str, other: str) -> None:
    tags = []
    for said in (one, other):
        opaque = opaque_of(said)
        assert opaque is not None
        tags.append(weak_tag(opaque))
        assert re.fullmatch(rb'W/"[!#-~]{1,128}"', tags[-1])
    plain = {each.removeprefix("W/").strip('"') for each in (one, other)}
    assert (tags[0] == tags[1]) <= (len(plain) == 1)
