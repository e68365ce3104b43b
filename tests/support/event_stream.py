"""What a client makes of server-sent events, as the HTML standard says it, section 9.2.6."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    data: str
    type: str
    last_id: str


def parsed(body: bytes) -> list[Event]:
    """The events that a client dispatches."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\r|\n", text)
    # What follows the last line end is no whole line.
    events, data, kind, last_id = list[Event](), list[str](), "", ""
    for line in lines[:-1]:
        if not line:
            if data:
                events.append(Event("\n".join(data), kind or "message", last_id))
            data, kind = [], ""
            continue
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ") if colon else ""
        match field:
            case "data":
                data.append(value)
            case "event":
                kind = value
            case "id" if "\0" not in value:
                last_id = value
    return events
