"""What doctor prints: a text for people, or JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from stream_cached.command.examine import Endpoint, Examined, Pinged, Undecorated
from stream_cached.command.printing import Colours, counted, labelled
from stream_cached.command.said import Said

#: Grows when a field of the JSON gets another meaning, or goes.
VERSION = 1


def text(target: str, found: Examined, colours: Colours) -> str:
    """Return what is shown on a terminal."""
    lines = [f"stream-cached doctor: {target}"]
    for endpoint in found.endpoints:
        lines += ["", *_endpoint(endpoint, colours)]
    if found.undecorated:
        lines += ["", colours.bold("Streams that are not decorated")]
        lines += [line for each in found.undecorated for line in _undecorated(each)]
    if found.stores:
        lines += ["", colours.bold("Stores")]
        lines += [line for each in found.stores for line in _pinged(each)]
    if found.settings:
        lines += ["", colours.bold("Settings")]
        lines += [line for each in found.settings for line in _finding(each, colours)]
    notes = [*found.notes, *(note for each in found.endpoints for note in each.notes)]
    if notes:
        lines += ["", colours.bold("What depends on the request, or may be meant so")]
        lines += [line for each in _general(notes) for line in _note(each)]
    return "\n".join([*lines, "", *_summary(found)])


def _endpoint(endpoint: Endpoint, colours: Colours) -> Iterator[str]:
    yield colours.bold(f"{','.join(endpoint.methods)} {endpoint.path}")
    yield from labelled("function", f"{endpoint.name} {_place(endpoint.place)}".rstrip())
    if endpoint.ttl:
        yield from labelled("store", _store(endpoint))
        yield from labelled("fresh", endpoint.ttl)
        yield from labelled("key", ", ".join(endpoint.key) or "the arguments")
        for name, way in endpoint.arguments.items():
            yield from labelled("", f"{name}: {way}")
    for finding in endpoint.findings:
        yield from _finding(finding, colours)
    if endpoint.notes:
        words = dict.fromkeys(note.reason for note in endpoint.notes)
        yield from labelled("depends", f"{', '.join(words)} (see below)")
    if not endpoint.findings:
        yield from labelled("ok", "nothing is wrong")


def _store(endpoint: Endpoint) -> str:
    store = endpoint.store
    if store is None:
        return "set up when the application starts"
    more = [f"namespace {store.namespace}"] if store.namespace else []
    more += [f"large bodies in {store.bodies}"] if store.bodies else []
    more += ["of this process alone"] if store.is_in_process else []
    return ", ".join([store.address, *more])


def _undecorated(each: Undecorated) -> Iterator[str]:
    yield from labelled(
        "", f"{','.join(each.methods)} {each.path}  {each.name} {_place(each.place)}".rstrip()
    )


def _pinged(each: Pinged) -> Iterator[str]:
    answer = "does not answer" if each.error else f"answers in {each.seconds * 1000:.0f} ms"
    yield from labelled("", f"{each.address} {answer}")


def _finding(said: Said, colours: Colours) -> Iterator[str]:
    lines = list(labelled("FINDING", f"{said.reason}: {said.text}"))
    yield from map(colours.finding, lines)
    if said.fix:
        yield from labelled("Fix", said.fix)


def _note(said: Said) -> Iterator[str]:
    yield from labelled("-", f"{said.reason}: {said.text}")
    if said.fix:
        yield from labelled("Fix", said.fix)


def _general(notes: Iterable[Said]) -> list[Said]:
    """Return each note once."""
    return list(dict.fromkeys(notes))


def _place(place: str) -> str:
    path, separator, line = place.rpartition(":")
    if not separator:
        return ""
    shown = os.path.relpath(path)
    return f"({path if shown.startswith('..') else shown}:{line})"


def _summary(found: Examined) -> Iterator[str]:
    findings = len(found.settings) + sum(len(each.findings) for each in found.endpoints)
    yield (
        f"{counted(found.routes, 'route')}: {counted(len(found.endpoints), 'endpoint')} decorated, "
        f"{counted(len(found.undecorated), 'stream')} not; "
        f"{counted(findings, 'finding') if findings else 'no findings'}"
    )


# -- for machines ---------------------------------------------------------------------------------


def as_json(target: str, found: Examined) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "version": VERSION,
        "target": target,
        "ok": not found.has_findings,
        "routes": found.routes,
        "endpoints": [_endpoint_json(each) for each in found.endpoints],
        "undecorated": [_where_json(each) for each in found.undecorated],
        "settings": [asdict(each) for each in found.settings],
        "notes": [asdict(each) for each in found.notes],
        "stores": [
            {
                "address": each.address,
                "answers": not each.error,
                "seconds": round(each.seconds, 4),
                "error": each.error,
            }
            for each in found.stores
        ],
    }


def _where_json(each: Endpoint | Undecorated) -> dict[str, Any]:
    return {
        "path": each.path,
        "methods": list(each.methods),
        "name": each.name,
        "place": each.place,
    }


def _endpoint_json(each: Endpoint) -> dict[str, Any]:
    store = each.store
    return {
        **_where_json(each),
        "store": None
        if store is None
        else {
            "address": store.address,
            "in_process": store.is_in_process,
            "namespace": store.namespace,
            "bodies": store.bodies,
        },
        "ttl": each.ttl,
        "key": list(each.key),
        "arguments": dict(each.arguments),
        "findings": [asdict(said) for said in each.findings],
        "notes": [asdict(said) for said in each.notes],
    }
