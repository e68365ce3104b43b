"""``stream-cached probe``: asks a URL twice, and says whether it streams and whether it hits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from stream_cached.checks import parse_size
from stream_cached.command.asking import Answer, Question, ask, question
from stream_cached.command.loading import UnableError
from stream_cached.command.printing import Colours, counted, labelled
from stream_cached.command.verdict import Verdict, verdict

#: Grows when a field of the JSON gets another meaning, or goes.
VERSION = 1

#: The headers that are shown, each with its name in the JSON.
_SHOWN = ("Cache-Status", "Age", "Content-Length", "Transfer-Encoding", "Content-Encoding")
_SHOWN_FIRST = (*_SHOWN, "X-Accel-Buffering")

#: The longest `--timeout`, in seconds.
_LONGEST = 3600.0

_WORDS = {True: "yes", False: "no", None: "can't be seen"}

_ROW = "{:<8}{:>6}  {:>8}  {:>10}  {:>8}  {:>11}  {:>6}  {}"


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "probe",
        help="ask a URL twice: does it stream, does it hit, and why not",
        description="Asks a URL twice. Says whether the first answer streams, whether the second "
        "one comes from the cache with the same bytes, and why not. Ends with 0 if nothing is "
        "wrong, 1 with findings, 2 if there is no answer.",
    )
    parser.add_argument("url", metavar="URL", help="http:// or https://")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'Name: value'",
        help="a header of both requests; may be given several times, and is never printed",
    )
    parser.add_argument("--method", default="GET", help="GET (the default), POST, ...")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long each answer may take (default: 30)",
    )
    parser.add_argument(
        "--max-bytes",
        type=_size,
        default=64 << 20,
        metavar="SIZE",
        help="how much is read of each answer, as 64MiB (the default)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="do not verify the certificate of https://"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(f"write a number of seconds, up to {_LONGEST:g}")
    return seconds


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def run(options: argparse.Namespace) -> int:
    """Print what is to be said; return the exit status."""
    try:
        asked = question(
            options.url,
            options.header,
            method=options.method.upper(),
            timeout=options.timeout,
            max_bytes=options.max_bytes,
            insecure=options.insecure,
        )
        first = ask(asked)
        # A stream without an end is not stored, and a second one would take as long.
        second = ask(asked) if first.cut in ("", "broken") else None
    except UnableError as exc:
        print(f"stream-cached probe: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstream-cached probe: interrupted", file=sys.stderr)
        return 130
    found = verdict(first, second)
    if options.json:
        print(json.dumps(as_json(asked, first, second, found), indent=2))
    else:
        print(text(asked, first, second, found, Colours()))
    return 1 if found.findings else 0


# -- for people -----------------------------------------------------------------------------------


def text(
    asked: Question, first: Answer, second: Answer | None, found: Verdict, colours: Colours
) -> str:
    """Return what is shown on a terminal."""
    answers = [("first", first), *([("second", second)] if second is not None else [])]
    lines = [
        f"stream-cached probe: {asked.method} {asked.shown}",
        "",
        _ROW.format("", "status", "head", "first byte", "last", "bytes", "pieces", "SHA-256"),
        *(_row(name, answer) for name, answer in answers),
        "",
    ]
    for name, answer in answers:
        lines += _headers(name, answer)
    lines += ["", *labelled("streams", _WORDS[found.streams])]
    lines += labelled("hits", "not asked" if second is None else _WORDS[found.hits])
    for said in found.findings:
        lines += map(colours.finding, labelled("FINDING", f"{said.reason}: {said.text}"))
        lines += labelled("Fix", said.fix) if said.fix else ()
    for said in found.notes:
        lines += labelled("note", f"{said.reason}: {said.text}")
        lines += labelled("", said.fix) if said.fix else ()
    findings = counted(len(found.findings), "finding") if found.findings else "no findings"
    return "\n".join([*lines, "", findings])


def _row(name: str, answer: Answer) -> str:
    times = (answer.head, answer.first_byte, answer.last)
    return _ROW.format(
        name,
        answer.status,
        *map(_time, times),
        f"{answer.size:,}",
        f"{answer.pieces:,}",
        answer.digest[:10],
    ).rstrip()


def _time(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _headers(name: str, answer: Answer) -> Iterator[str]:
    shown = [each for each in _SHOWN_FIRST if each.lower() in answer.headers]
    texts = [f"{each}: {answer.header(each.lower())}" for each in shown]
    if answer.version != "HTTP/1.1":
        texts.insert(0, answer.version)
    for index, each in enumerate(texts or ["no headers of a cache or of a stream"]):
        yield from labelled(name if not index else "", each)


# -- for machines ---------------------------------------------------------------------------------


def as_json(
    asked: Question, first: Answer, second: Answer | None, found: Verdict
) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "version": VERSION,
        "url": asked.shown,
        "method": asked.method,
        "ok": not found.findings,
        "streams": found.streams,
        "hits": found.hits,
        "first": _answer_json(first),
        "second": None if second is None else _answer_json(second),
        "findings": [asdict(each) for each in found.findings],
        "notes": [asdict(each) for each in found.notes],
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    headers = {
        name.lower().replace("-", "_"): answer.header(name.lower()) or None for name in _SHOWN_FIRST
    }
    return {
        "status": answer.status,
        "http": answer.version.removeprefix("HTTP/"),
        "head_seconds": round(answer.head, 4),
        "first_byte_seconds": round(answer.first_byte, 4),
        "last_byte_seconds": round(answer.last, 4),
        "pieces": answer.pieces,
        "piece_seconds": [round(each, 4) for each in answer.times],
        "bytes": answer.size,
        "sha256": answer.digest,
        "complete": not answer.cut,
        **headers,
    }
