"""The ids of server-sent events that are sent: each names its run and its number.

An id is `RUN.NUMBER`, and `RUN.NUMBER:OWN` for an event whose endpoint has given it an id. RUN
stands for the generation. Bytes are read as they come: nothing is held back, wherever a chunk ends.
"""

from __future__ import annotations

import base64
import hashlib
import re

#: Parts of lines, and their ends.
_TOKEN = re.compile(rb"[^\r\n]+|\r\n|\r|\n")
_ENDS = (b"\n", b"\r", b"\r\n")

_BOM = b"\xef\xbb\xbf"

#: The begin of a line with an id, once a byte of its value is there.
_ID = re.compile(rb"(?:\xef\xbb\xbf)?id:(?: (?=.)|(?=[^ ]))", re.DOTALL)

#: An id that was sent. Digits of more are no number of an event.
_SENT = re.compile(rb"([A-Za-z0-9_-]{16})\.([1-9][0-9]{0,15})(?::.*)?", re.DOTALL)

#: Bytes of a line that tell which field it is.
_HEAD = 12


def name_of_run(generation: bytes) -> bytes:
    """Return what stands for a generation in ids. It does not tell the generation."""
    return base64.urlsafe_b64encode(hashlib.blake2b(generation, digest_size=12).digest())


def number_of(sent: bytes, generation: bytes) -> int | None:
    """Return the number of the event that an id names, if it is one of this generation."""
    match = _SENT.fullmatch(sent)
    return int(match[2]) if match and match[1] == name_of_run(generation) else None


def without_ids(body: bytes, generation: bytes) -> bytes:
    """Return events without the ids that they were given, as they were made."""
    number = re.escape(name_of_run(generation)) + rb"\.[0-9]+"
    return re.sub(b"id: %b\n|%b:" % (number, number), b"", body)


class _Lines:
    """The lines of an event stream, whose chunks may end anywhere. A subclass says what to keep."""

    _head_size = _HEAD

    def __init__(self) -> None:
        self._head = b""
        self._is_first = True
        self._has_cr = False

    def _ends_line(self, token: bytes) -> bool | None:
        """Note a token. Return whether it ends a line; None if it is the rest of such an end."""
        if token not in _ENDS:
            self._has_cr = False
            return False
        if self._has_cr and token == b"\n":
            self._has_cr = False
            return None
        self._has_cr = token == b"\r"
        return True

    def _add(self, part: bytes) -> None:
        if len(self._head) < self._head_size:
            self._head = (self._head + part)[: self._head_size]

    def _line(self) -> bytes:
        """Return the begin of the line that ends, and go on to the next one."""
        line = self._head.removeprefix(_BOM) if self._is_first else self._head
        self._head, self._is_first = b"", False
        return line


class EventIds(_Lines):
    """
    Gives each event of a stream an id, by which a client can go on after it.

    An event that resets the id of its client by an empty one is left as it is.
    """

    def __init__(self, generation: bytes) -> None:
        super().__init__()
        self._run = name_of_run(generation)
        self.count = 0
        self._in_id = self._is_valid = False
        self._has_data = self._has_id = self._resets = False
        #: Whether the event has used its number, be it in an id that its client ignores.
        self._is_numbered = False

    def add(self, chunk: bytes) -> bytes:
        """Return a chunk with the ids of the events that it ends."""
        out = []
        for token in _TOKEN.findall(chunk):
            ends = self._ends_line(token)
            if ends is False:
                out.append(self._part(token))
            else:
                out.append(self._end_of_line(token) if ends else token)
        return b"".join(out)

    @property
    def _next(self) -> bytes:
        return b"%b.%d" % (self._run, self.count + 1)

    def _part(self, part: bytes) -> bytes:
        if self._in_id:
            self._is_valid = self._is_valid and b"\0" not in part
            return part
        known = len(self._head)
        if known >= _HEAD:
            return part
        start = self._head + part
        self._add(part)
        match = _ID.match(start)
        if match is None or (start.startswith(_BOM) and not self._is_first):
            return part
        self._in_id = self._is_numbered = True
        self._is_valid = b"\0" not in start[match.end() :]
        at = match.end() - known
        return b"%b%b:%b" % (part[:at], self._next, part[at:])

    def _end_of_line(self, end: bytes) -> bytes:
        line, in_id, is_valid = self._line(), self._in_id, self._is_valid
        self._in_id = False
        if not line:
            return self._end_of_event() + end
        field = line.partition(b":")[0]
        if field == b"data":
            self._has_data = True
        elif field == b"id" and (is_valid or not in_id):
            # A client ignores an id with a null.
            self._has_id, self._resets = in_id, not in_id
        return end

    def _end_of_event(self) -> bytes:
        is_new = self._has_data and not self._has_id and not self._resets
        added = b"id: %b\n" % self._next if is_new else b""
        if is_new or self._is_numbered:
            self.count += 1
        self._has_data = self._has_id = self._resets = self._is_numbered = False
        return added


class AfterEvent(_Lines):
    """Finds the end of the event with a number in a stream with ids."""

    def __init__(self, generation: bytes, number: int) -> None:
        super().__init__()
        event = re.escape(b"%b.%d" % (name_of_run(generation), number))
        self._wanted = re.compile(b"id: ?" + event + b"(?::|$)")
        self._head_size = len(_BOM) + len(event) + _HEAD
        self._is_found = False

    def rest(self, chunk: bytes) -> bytes | None:
        """Return what of a chunk follows the event; None if the event has not ended yet."""
        for match in _TOKEN.finditer(chunk):
            ends = self._ends_line(match[0])
            if ends is False:
                self._add(match[0])
            elif ends:
                line = self._line()
                if not line and self._is_found:
                    return chunk[match.end() :]
                self._is_found = self._is_found or bool(self._wanted.match(line))
        return None
