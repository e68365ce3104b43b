"""The texts that the demo prints."""

from collections.abc import Mapping, Sequence

from stream_cached.demo import on_redis
from stream_cached.demo.client import SITE, Answer
from stream_cached.demo.processes import Server

_ROW = "{:<15}  {:<6}  {:>10}  {:>8}  {:>9}  {:>6}  {:<12}  {}"
_SHOWN_KEYS = 4
_KEY_WIDTH = 86
_PIECES = (
    "Pieces: the chunks of a streamed answer. A stored body is sent with a Content-Length and\n"
    "without chunks; its pieces are the client's reads."
)


def introduction(cache: str, bodies: str, servers: Sequence[Server]) -> str:
    """Return the addresses of the servers."""
    if len(servers) == 1:
        lines = [f"A server with the memory store: {servers[0].url} (process {servers[0].pid})"]
    else:
        lines = [f"Two server processes share the Redis at {on_redis.shown(cache)}:"]
        lines += [f"  {server.name}: {server.url} (process {server.pid})" for server in servers]
    if bodies:
        lines.append(f"Large bodies are kept at {on_redis.shown(bodies)}.")
    return "\n".join(lines)


def explanation(servers: Sequence[Server]) -> str:
    """Return the explanation of the table."""
    text = (
        "Each stream is requested twice. The endpoint produces the first answer, which is stored\n"
        "while it is sent. The second answer comes from the store; the endpoint does not run."
    )
    if len(servers) > 1:
        text += (
            " The\nfirst request goes to A, the second to B, both with the same Host, as behind "
            "a load balancer."
        )
    return f"{text}\n\n{_PIECES}"


def head() -> str:
    """Return the two header lines of the table."""
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
    """Return a sentence for each error in the two answers."""
    found = [
        f"{path}: the {which} answer had status {answer.status} and {answer.size} bytes."
        for which, answer in (("first", first), ("second", second))
        if answer.status != 200 or not answer.size
    ]
    if not first.is_stored:
        status = first.cache_status or "(none)"
        found.append(f"{path}: the first answer was no stored miss. Cache-Status: {status}.")
    if not second.is_hit:
        status = second.cache_status or "(none)"
        found.append(f"{path}: the second answer was no hit. Cache-Status: {status}.")
    if first.digest != second.digest:
        found.append(f"{path}: the bodies of the two answers differ.")
    return found


def verdict(answers: Mapping[str, tuple[Answer, Answer]]) -> str:
    """Return the summary of a successful comparison."""
    lines = ["Every second answer was a hit with the same bytes. Compared with the first, it was:"]
    lines += [
        f"  {path:<15}  {first.total / second.total:>6,.0f} times as fast"
        for path, (first, second) in answers.items()
    ]
    return "\n".join(lines)


def listing(path: str, stored: Sequence[tuple[str, int]]) -> str:
    """Return the first keys with their sizes, and the total."""
    lines = [f"The store's keys for {path}:", "", f"{'bytes':>10}  key"]
    lines += [f"{size:>10,}  {_shortened(key)}" for key, size in stored[:_SHOWN_KEYS]]
    if len(stored) > _SHOWN_KEYS:
        lines.append(f"{'...':>10}  ... {len(stored) - _SHOWN_KEYS} more")
    lines.append(f"{sum(size for _, size in stored):>10,}  in {len(stored)} keys")
    return "\n".join(lines)


def page(servers: Sequence[Server]) -> str:
    """Return where the page is."""
    lines = ["Open this page in a browser, and add viewers of one stream:", ""]
    lines += [f"  {server.url}/" for server in servers]
    if len(servers) > 1:
        lines += ["", "A viewer at one of the two servers joins a run of the other."]
    return "\n".join(lines)


def commands(servers: Sequence[Server]) -> str:
    """Return the curl commands to try."""
    first, last = servers[0].url, servers[-1].url
    # Behind a load balancer both servers would get the same Host, which is part of the key.
    site = f" -H Host:{SITE}" if len(servers) > 1 else ""
    timed = f"curl -s -o /dev/null -D - -w '%{{time_total}} s\\n'{site}"
    lines = [
        "Request a stream twice, and compare Cache-Status and the timing:",
        "",
        f"  curl -iN{site} {first}/tokens",
        f"  curl -iN{site} {last}/tokens",
        "",
        f"  {timed} {first}/export.csv",
        f"  {timed} {last}/export.csv",
        f"  {timed} '{last}/export.csv?module=ast'",
        f"  {timed} {last}/records.ndjson",
        "",
        "List the store's keys with their sizes in bytes:",
        "",
        f"  curl -s {first}/_keys",
        "",
        "An entry is fresh for 60 seconds. Ctrl-C ends the demo.",
    ]
    return "\n".join(lines)


def _shortened(key: str) -> str:
    return key if len(key) <= _KEY_WIDTH else f"...{key[3 - _KEY_WIDTH :]}"
