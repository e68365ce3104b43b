"""What the demo says."""

from collections.abc import Mapping, Sequence

from stream_cached.demo import on_redis
from stream_cached.demo.client import SITE, Answer
from stream_cached.demo.processes import Server

_ROW = "{:<15}  {:<6}  {:>10}  {:>8}  {:>9}  {:>6}  {:<12}  {}"
_SHOWN_KEYS = 4
_KEY_WIDTH = 86
_PIECES = (
    "Pieces: the chunks that a stream was sent in. A stored body is sent with its length instead\n"
    "of in chunks; its pieces are what the client's reads returned."
)


def introduction(cache: str, servers: Sequence[Server]) -> str:
    """Say what runs where."""
    if len(servers) == 1:
        return f"A server with the embedded store: {servers[0].url} (process {servers[0].pid})"
    lines = [f"Two server processes share the Redis at {on_redis.shown(cache)}:"]
    lines += [f"  {server.name}: {server.url} (process {server.pid})" for server in servers]
    return "\n".join(lines)


def explanation(servers: Sequence[Server]) -> str:
    """Say what the table shows."""
    text = (
        "Each stream is asked for twice. The first answer is made by the endpoint, and stored\n"
        "while it passes by; the second comes out of the store, without running the endpoint."
    )
    if len(servers) > 1:
        text += (
            " The\nfirst request goes to A, the second to B, with the same Host, as from a load "
            "balancer."
        )
    return f"{text}\n\n{_PIECES}"


def head() -> str:
    """Return the head of the table."""
    upper = _ROW.format("", "", "first byte", "total", "", "", "", "").rstrip()
    lower = _ROW.format(
        "stream", "answer", "ms", "ms", "bytes", "pieces", "SHA-256", "Cache-Status"
    )
    return f"{upper}\n{lower}"


def row(path: str, which: str, answer: Answer) -> str:
    """Return the row of an answer."""
    return _ROW.format(
        path,
        which,
        f"{answer.first_byte * 1000:,.1f}",
        f"{answer.total * 1000:,.1f}",
        f"{answer.size:,}",
        f"{answer.pieces:,}",
        answer.digest[:12],
        answer.cache_status.removeprefix("stream-cached; ") or "(none)",
    )


def problems(path: str, first: Answer, second: Answer) -> list[str]:
    """Say what is wrong with two answers, in sentences; nothing if all is as promised."""
    found = [
        f"{path}: the {which} answer had status {answer.status} and {answer.size} bytes."
        for which, answer in (("first", first), ("second", second))
        if answer.status != 200 or not answer.size
    ]
    if not first.is_stored:
        status = first.cache_status or "(none)"
        found.append(f"{path}: the first answer was not made and stored, but: {status}.")
    if not second.is_hit:
        status = second.cache_status or "(none)"
        found.append(f"{path}: the second answer was not a hit, but: {status}.")
    if first.digest != second.digest:
        found.append(f"{path}: the second answer's body differs from the first one's.")
    return found


def verdict(answers: Mapping[str, tuple[Answer, Answer]]) -> str:
    """Say what came of it when nothing is wrong."""
    lines = ["Every second answer was a hit, and byte for byte the first one. As a whole it came:"]
    lines += [
        f"  {path:<15}  {first.total / second.total:>6,.0f} times as fast"
        for path, (first, second) in answers.items()
    ]
    return "\n".join(lines)


def listing(path: str, stored: Sequence[tuple[str, int]]) -> str:
    """List the keys with their sizes; the first ones, and what there is in all."""
    lines = [f"What the store holds for {path}:", "", f"{'bytes':>10}  key"]
    lines += [f"{size:>10,}  {_shortened(key)}" for key, size in stored[:_SHOWN_KEYS]]
    if len(stored) > _SHOWN_KEYS:
        lines.append(f"{'...':>10}  ... {len(stored) - _SHOWN_KEYS} more")
    lines.append(f"{sum(size for _, size in stored):>10,}  in {len(stored)} keys")
    return "\n".join(lines)


def commands(servers: Sequence[Server]) -> str:
    """Say what to try with curl."""
    first, last = servers[0].url, servers[-1].url
    # Behind a load balancer both servers would get the same Host, which is part of the key.
    site = f" -H Host:{SITE}" if len(servers) > 1 else ""
    timed = f"curl -s -o /dev/null -D - -w '%{{time_total}} s\\n'{site}"
    lines = [
        "Ask for a stream, then ask again; look at Cache-Status, and at how it comes:",
        "",
        f"  curl -iN{site} {first}/tokens",
        f"  curl -iN{site} {last}/tokens",
        "",
        f"  {timed} {first}/export.csv",
        f"  {timed} {last}/export.csv",
        f"  {timed} '{last}/export.csv?module=ast'",
        f"  {timed} {last}/records.ndjson",
        "",
        "What the store holds, as keys with bytes:",
        "",
        f"  curl -s {first}/_keys",
        "",
        "An entry lasts for a minute. Ctrl-C ends the demo.",
    ]
    return "\n".join(lines)


def _shortened(key: str) -> str:
    return key if len(key) <= _KEY_WIDTH else f"...{key[3 - _KEY_WIDTH :]}"
