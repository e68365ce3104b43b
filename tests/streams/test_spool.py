"""What slow readers have still to read in temporary files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.streams.spool import Spool


def open_files() -> set[str]:
    """The descriptors of this process, and what they lead to."""
    return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()}


@given(
    batches=st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=5), min_size=1),
    part_size=st.integers(1, 200),
    start=st.integers(0, 1_000),
)
def test_every_chunk_is_read_from_wherever_one_begins(
    batches: list[list[bytes]], part_size: int, start: int
) -> None:
    spool = Spool(1_000_000, part_size)
    number = start
    for batch in batches:
        spool.append(number, batch)
        number += len(batch)
    everything = [chunk for batch in batches for chunk in batch]
    try:
        for begin in range(len(everything)):
            read: list[bytes] = []
            while begin + len(read) < len(everything):
                read += spool.read(start + begin + len(read))
            assert read == everything[begin:]
    finally:
        spool.close()


def test_what_nobody_needs_is_given_back_a_file_at_a_time() -> None:
    spool = Spool(1_000, part_size=100)
    for number in range(8):
        spool.append(number, [bytes(100)])
    used = spool.used
    spool.forget(3)
    assert spool.first == 3
    assert spool.used == used * 5 // 8
    assert spool.read(3) == [bytes(100)]
    with pytest.raises(LookupError):
        spool.read(2)
    spool.forget(None)
    assert spool.first is None
    assert spool.used == 0


def test_it_says_when_it_is_full_and_what_goes_first() -> None:
    spool = Spool(250, part_size=100)
    number = 0
    while not spool.is_full:
        spool.append(number, [bytes(100)])
        number += 1
    assert spool.forget_first() == 1
    assert not spool.is_full
    spool.close()


def test_a_gap_discards_what_came_before() -> None:
    spool = Spool(1_000)
    spool.append(0, [b"a"])
    spool.append(5, [b"b"])
    assert spool.first == 5
    with pytest.raises(LookupError):
        spool.read(0)
    assert spool.read(5) == [b"b"]
    spool.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc")
def test_its_files_have_no_name_and_leave_no_descriptor() -> None:
    before = open_files()
    spool = Spool(1_000)
    spool.append(0, [b"a"])
    opened = open_files() - before
    assert opened
    assert all(not os.path.exists(name) for name in opened)
    spool.close()
    assert not opened & open_files()
