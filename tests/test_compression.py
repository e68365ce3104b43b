"""`Compression`: its fields, and what they are checked for."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from stream_cached import Compression, ConfigurationError, compression
from stream_cached import stream_cached as cached
from tests.support.process import ROOT
from tests.test_options import DECORATORS, arguments_of, options_of

FIELDS = [field.name for field in dataclasses.fields(Compression)]


def test_the_docstring_names_all_fields_in_their_order() -> None:
    assert arguments_of(Compression) == FIELDS


def test_the_table_has_a_row_for_each_field() -> None:
    text = (ROOT / "docs" / "compression.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == FIELDS


@pytest.mark.parametrize("decorator", DECORATORS.values(), ids=DECORATORS)
def test_a_name_stands_for_the_defaults(decorator: Any) -> None:
    assert options_of(decorator()).compress is None
    assert options_of(decorator(compress=None)).compress is None
    assert options_of(decorator(compress="zlib")).compress == Compression()
    other = Compression(level=9, min_size="1MiB", media_types=["Text/*"])  # type: ignore[arg-type]
    assert (other.min_size, other.media_types) == (1024 * 1024, ("text/*",))
    assert options_of(decorator(compress=other)).compress == other == dataclasses.replace(other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codec": "gzip"}, 'codec=\'gzip\': pass "zlib" or "zstd"'),
        ({"level": 0}, "level=0: pass a whole number from 1 to 9"),
        ({"level": True}, "level=True: pass a whole number from 1 to 9"),
        ({"level": 10}, "level=10: pass a whole number from 1 to 9"),
        ({"min_size": -1}, "min_size=-1: pass a whole number, 0 or more"),
        ({"media_types": "text/*"}, "media_types='text/*': pass a tuple of names"),
        ({"media_types": ("csv",)}, "media_types=('csv',): pass a tuple of names"),
        ({"media_types": 5}, "media_types=5: pass a tuple of names"),
    ],
)
def test_a_wrong_field_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Compression(**fields)


@pytest.mark.parametrize("value", ["gzip", True, 5, ("zlib",), Compression, {"codec": "zlib"}, []])
def test_another_value_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'pass "zlib", "zstd", None, or Compression'):
        cached(compress=value)


def test_a_codec_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "has_zstd", lambda: False)
    with pytest.raises(ConfigurationError, match=re.escape('pip install "stream-cached[zstd]"')):
        cached(compress="zstd")


@pytest.mark.parametrize(
    ("media_type", "applies"),
    [
        ("text/csv", True),
        ("Text/CSV; charset=utf-8", True),
        ("application/json", True),
        ("application/problem+json", True),
        ("application/x-ndjson", True),
        ("text/event-stream", True),
        ("image/svg+xml", True),
        ("image/png", False),
        ("application/zip", False),
        ("application/octet-stream", False),
        ("", False),
    ],
)
def test_what_is_compressed_by_default(media_type: str, applies: bool) -> None:
    assert Compression().applies_to(media_type) is applies
    assert not Compression(media_types=()).applies_to(media_type)
    assert Compression(media_types=("*/*",)).applies_to(media_type) is bool(media_type)
