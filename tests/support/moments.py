"""When a fault begins, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.wire import Command

INLINE, SEGMENTS, LONG = "/1000/x", "/700000/x", "/2300000/x"
"""In one value; in three; in nine, which are read in three windows."""

_VARIED, _VARIED_SEGMENTS = "/1000/varied/x", "/700000/varied/x"
"""They are committed step by step also where the store can do all of it at once."""


@dataclass(frozen=True, slots=True)
class Moment:
    """
    When a fault begins: just before the nth (from 0) of some commands reaches the server.

    Args:
        path: What the request asks for during which it begins.
        when: Which commands; None for before that request.
        nth: Which one of them.
        kind: What the request sends as X-Kind.
        stored: Whether there is an entry for the request.
        used: Whether the store was used before.
        missed: Whether the request before is a miss: the next one takes its lease with the look-up.
        breaks: Whether the endpoint raises.
        local: What the process may keep of entries. With 0, each hit reads its body in the store.
    """

    path: str
    when: Callable[[Command], bool] | None
    nth: int = 0
    kind: str = ""
    stored: bool = False
    used: bool = True
    missed: bool = False
    breaks: bool = False
    local: str | int = "16MiB"


def _segment_written(command: Command) -> bool:
    return command.stores and command.of_segments


def _segments_read(command: Command) -> bool:
    return command.reads and command.of_segments


def _segments_renewed(command: Command) -> bool:
    return command.name in ("PEXPIRE", "TOUCH") and command.of_segments


def _segments_deleted(command: Command) -> bool:
    return command.name in ("DEL", "DELETE") and command.of_segments


def _looked_up(command: Command) -> bool:
    return command.reads and command.of_record


def _version_added(command: Command) -> bool:
    return command.stores and command.of_version


def _lease_set(command: Command) -> bool:
    return command.stores and command.of_lease


def _lease_read(command: Command) -> bool:
    return command.reads and command.of_lease


def _claimed(command: Command) -> bool:
    return command.claims or (command.stores and command.of_lease)


def _committed(command: Command) -> bool:
    return command.stores and command.of_record and not command.claims


MOMENTS = {
    "at the first use": Moment(INLINE, None, used=False),
    "before a miss": Moment(SEGMENTS, None),
    "before a hit": Moment(INLINE, None, stored=True),
    "at the look-up of a miss": Moment(SEGMENTS, _looked_up),
    "at the look-up of a hit": Moment(INLINE, _looked_up, stored=True),
    "at the version": Moment(SEGMENTS, _version_added, used=False),
    "at the lease": Moment(SEGMENTS, _lease_set),
    "at the look-up with the lease": Moment(SEGMENTS, _lease_read),
    "at the look-up that takes a lease": Moment(SEGMENTS, _claimed, missed=True),
    "at the end of a lease of a look-up": Moment(_VARIED_SEGMENTS, _lease_set, 1, missed=True),
    "at the end of the lease": Moment(_VARIED_SEGMENTS, _lease_set, 1),
    "at the renewal of a long hit": Moment(LONG, _segments_renewed, stored=True, local=0),
    "at window 0 of a hit": Moment(LONG, _segments_read, 0, stored=True, local=0),
    "at window 1 of a hit": Moment(LONG, _segments_read, 1, stored=True, local=0),
    "at window 2 of a hit": Moment(LONG, _segments_read, 2, stored=True, local=0),
    "at segment 0 of a run": Moment(LONG, _segment_written, 0),
    "at segment 5 of a run": Moment(LONG, _segment_written, 5),
    "at segment 8 of a run": Moment(LONG, _segment_written, 8),
    "at the renewal before the commit": Moment(_VARIED_SEGMENTS, _segments_renewed),
    "at the commit": Moment(INLINE, _committed),
    "at the commit of segments": Moment(SEGMENTS, _committed),
    "at the commit of a body at hand": Moment("/1000/at-hand/x", _committed),
    "at the release of a failed run": Moment(LONG, _segments_deleted, breaks=True),
    **{f"at segment {n} of a run": Moment(LONG, _segment_written, n) for n in (1, 2, 3, 4, 6, 7)},
    "before a long hit": Moment(LONG, None, stored=True),
    "at the look-up of a long hit": Moment(LONG, _looked_up, stored=True),
    "at the look-up before the commit": Moment(_VARIED_SEGMENTS, _looked_up, 1),
    "at a segment of a body at hand": Moment("/700000/at-hand/x", _segment_written),
    "at the commit of a variant": Moment(_VARIED, _committed),
    "at the first index": Moment(_VARIED, _committed, 1),
    "at the look-up of a variant": Moment(_VARIED, _looked_up, 1, stored=True),
    "at the commit of another variant": Moment(_VARIED, _committed, kind="b", stored=True),
    "at the next index": Moment(_VARIED, _committed, 1, kind="b", stored=True),
}
