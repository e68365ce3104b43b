"""The page on the record format says what the code writes."""

from __future__ import annotations

import re
import struct

import msgpack

from stream_cached.format.codec import encode_record
from stream_cached.format.envelope import FORMAT_VERSION, MAGIC, PREFIX_SIZE, State, checksum
from stream_cached.format.records import Entry
from tests.support.process import ROOT

PAGE = (ROOT / "docs" / "record-format.md").read_text(encoding="utf-8")

GENERATION = bytes(range(16))

ENTRY = Entry(
    key=b"k" * 16,
    versions={"endpoint:version:0": b"v" * 16},
    status=200,
    headers=((b"content-type", b"text/csv"),),
    media_type="text/csv",
    charset="utf-8",
    streamed=True,
    stored_at=1.0,
    length=6,
    generation=GENERATION,
    chunks=(4, 2),
    body=b"abcdef",
    fresh_until=2.0,
    replaces=("etag",),
    etag='"0"',
    sizes=(9,),
    validator=("7", 3.0),
    took=0.5,
    codings=b"\x01",
)


def _rows(heading: str) -> list[list[str]]:
    """Return the rows of the first table after a heading."""
    _, found, after = PAGE.partition(f"\n## {heading}\n")
    assert found
    lines = re.findall(r"^\|.*\|$", after.partition("\n## ")[0], flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _numbers(values: bytes) -> dict[str, bytes]:
    return {
        name: values[int(offset) : int(offset) + int(size)]
        for offset, size, name, _ in _rows("Layout")
        if name != "reserved"
    }


def test_the_prefix_is_as_the_table_has_it() -> None:
    value = encode_record(ENTRY)
    sizes = [(int(offset), int(size)) for offset, size, *_ in _rows("Layout")]
    edges = [0, *(offset + size for offset, size in sizes)]
    assert [offset for offset, _ in sizes] == edges[:-1]
    assert edges[-1] == PREFIX_SIZE

    found = _numbers(value)
    lengths = struct.unpack(">I", found["length of the head"])
    head, body = value[64 : 64 + lengths[0]], value[64 + lengths[0] :]
    assert found == {
        "magic": MAGIC,
        "format version": bytes([FORMAT_VERSION]),
        "state": bytes([State.CODED_ENTRY]),
        "generation": GENERATION,
        "revision": bytes(4),
        "length of the head": struct.pack(">I", len(head)),
        "length of the body": struct.pack(">Q", len(ENTRY.body)),
        "checksum of the head": struct.pack(">I", checksum(head)),
        "checksum of the body": struct.pack(">I", checksum(body)),
        "checksum of the prefix": struct.pack(">I", checksum(value[:60])),
    }
    shown = {name: text for _, _, name, text in _rows("Layout")}
    assert shown["magic"].startswith(f"`{MAGIC.hex(' ')}`")
    assert shown["format version"] == str(FORMAT_VERSION)


def test_the_states_are_those_of_the_code() -> None:
    rows = [(int(number), name) for number, name, *_ in _rows("States")]
    assert rows == [(int(state), state.name) for state in State]


def test_the_fields_of_an_entry_are_those_that_are_written() -> None:
    value = encode_record(ENTRY)
    (length,) = struct.unpack(">I", value[32:36])
    head = msgpack.unpackb(value[64 : 64 + length])
    rows = {name.strip("`"): kind for name, kind, _ in _rows("An entry")}
    assert list(rows) == list(head)

    kinds = {int: "integer", float: "float", str: "text", bytes: "bytes", bool: "boolean"}
    for name, kind in rows.items():
        written = head[name]
        expected = kinds.get(type(written), "array" if isinstance(written, list) else "map")
        assert kind.startswith(expected), name

    plain = {"replaces", "etag", "sizes", "validator", "took", "codings"}
    assert {name for name, kind in rows.items() if "optional" in kind} == plain
