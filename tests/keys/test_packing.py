"""Packing with buffers that are used again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest

from stream_cached.keys.packing import Packing

VALUES: list[Any] = [None, 0, "text", b"bytes", [1, [2, {"a": 3.5}]], {"key": "v" * 1000}, ("t",)]


def test_it_packs_as_msgpack_does() -> None:
    pack = Packing()
    for value in VALUES * 2:
        assert pack(value) == msgpack.packb(value)
    assert len(pack._free) == 1


def test_what_is_refused_leaves_nothing_behind() -> None:
    pack = Packing()
    pack("before")
    for refused in (["begun", object()], ["begun", 1 << 70], ["begun", "\ud800"]):
        with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
            pack(refused)
        assert not pack._free
        assert pack("after") == msgpack.packb("after")


def test_a_value_may_pack_others_while_it_is_packed() -> None:
    def default(value: object) -> bytes:
        return pack(["within", str(value)])

    pack = Packing(default=default)
    within = msgpack.packb(["within", "1j"])
    assert pack(["around", 1j, "rest"]) == msgpack.packb(["around", within, "rest"])


def test_the_buffer_of_a_large_value_is_not_kept() -> None:
    pack = Packing()
    assert len(pack(b"v" * 1_000_000)) > 1_000_000
    assert not pack._free


def test_threads_do_not_share_a_buffer() -> None:
    pack = Packing()

    def work(number: int) -> bool:
        value = [f"{number}", *range(number)]
        return all(pack(value) == msgpack.packb(value) for _ in range(200))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(40)))
    assert len(pack._free) <= 8
