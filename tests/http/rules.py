"""The rules of HTTP that a cache follows, as records: section, given, when, then.

The tests run them against the pure functions, and a selection of them again over a server.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: When the responses of the records are received, and what that is as a date.
NOW = 784_111_777.0
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
HOUR_LATER = "Sun, 06 Nov 1994 09:49:37 GMT"
HOUR_BEFORE = "Sun, 06 Nov 1994 07:49:37 GMT"
TEN_HOURS_BEFORE = "Sat, 05 Nov 1994 22:49:37 GMT"

Fields = dict[str, str | list[str]]


def raw(fields: Fields) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), line.encode("latin-1"))
        for name, value in fields.items()
        for line in ([value] if isinstance(value, str) else value)
    ]


@dataclass(frozen=True)
class Fresh:
    """How long a response is fresh, by itself: seconds from its receipt, or the reason why not."""

    section: str
    given: Fields
    then: float | str
    status: int = 200
    heuristic: float = 0.0
    delay: float = 0.0
    targets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.section} {self.given}"


FRESH = [
    Fresh("9111 4.2.1", {}, "freshness"),
    Fresh("9111 4.2.1", {"Cache-Control": "max-age=60"}, 60),
    Fresh("9111 4.2.1", {"Cache-Control": "s-maxage=5, max-age=60"}, 5),
    Fresh("9111 4.2.1", {"Cache-Control": ["max-age=0", "s-maxage=60"]}, 60),
    Fresh("9111 4.2.1", {"Cache-Control": "max-age=0", "Expires": HOUR_LATER}, "freshness"),
    Fresh("9111 4.2.1", {"Cache-Control": "max-age=60", "Expires": HOUR_BEFORE}, 60),
    Fresh("9111 4.2.1", {"Cache-Control": "max-age=60, max-age=5"}, 5),
    Fresh("9111 4.2.1", {"Cache-Control": ["max-age=5", "max-age=60"]}, 5),
    Fresh("9111 4.2.1", {"Cache-Control": "max-age=60, max-age=x"}, "freshness"),
    Fresh("9111 4.2.1", {"Cache-Control": "max-age=x", "Expires": HOUR_LATER}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": "MAX-age=60, Unknown, other=1"}, 60),
    Fresh("9111 5.2", {"Cache-Control": 'max-age="60"'}, 60),
    Fresh("9111 5.2", {"Cache-Control": "max-age='60'"}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": "max-age=60.0"}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": "max-age=-60"}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": "max-age"}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": "max-age =60"}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": "max-age=5; max-age=60"}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": 'ext="max-age=60", max-age=5'}, 5),
    Fresh("9111 5.2", {"Cache-Control": 'ext="max-age=60"'}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": 'ext="a\\", max-age=60'}, "freshness"),
    Fresh("9111 5.2", {"Cache-Control": ['ext="', "max-age=5"]}, 5),
    Fresh("9111 1.2.2", {"Cache-Control": "max-age=0060"}, 60),
    Fresh("9111 1.2.2", {"Cache-Control": "max-age=" + "0" * 5000 + "60"}, 60),
    Fresh("9111 1.2.2", {"Cache-Control": "max-age=" + "9" * 5000}, 2**31),
    Fresh("9111 1.2.2", {"Cache-Control": "max-age=2147483649"}, 2**31),
    Fresh("9111 5.2.2.4", {"Cache-Control": "no-cache, max-age=60"}, "freshness"),
    Fresh("9111 5.2.2.4", {"Cache-Control": 'no-cache="x-a", max-age=60'}, 60),
    Fresh("9111 5.2.2.4", {"Cache-Control": 'no-cache="x-a", no-cache, max-age=60'}, "freshness"),
    Fresh("9111 5.2.2.4", {"Cache-Control": 'no-cache="content-type", max-age=60'}, "freshness"),
    Fresh("9111 5.3", {"Expires": HOUR_LATER, "Date": DATE}, 3600),
    Fresh("9111 5.3", {"Expires": HOUR_LATER}, 3600),
    Fresh("9111 5.3", {"Expires": HOUR_LATER, "Date": "yesterday"}, 3600),
    Fresh("9111 5.3", {"Expires": HOUR_BEFORE, "Date": DATE}, "freshness"),
    Fresh("9111 5.3", {"Expires": "0", "Date": DATE}, "freshness"),
    Fresh("9111 5.3", {"Expires": [HOUR_LATER, HOUR_LATER]}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sunday, 06-Nov-94 09:49:37 GMT"}, 3600),
    Fresh("9110 5.6.7", {"Expires": "Sun Nov  6 09:49:37 1994"}, 3600),
    Fresh("9111 4.2", {"Expires": "sUN, 06 nOV 1994 09:49:37 gmt"}, 3600),
    Fresh("9110 5.6.7", {"Expires": "Sun, 06 Nov 1994 09:49:37 UTC"}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sun, 06 Nov 1994 09:49:37 +0000"}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sun, 06 Nov 94 09:49:37 GMT"}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sun 06 Nov 1994 09:49:37 GMT"}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sun, 06  Nov 1994 09:49:37 GMT"}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sun, 06-Nov-1994 09:49:37 GMT"}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sun, 06 Nov 1994 09.49.37 GMT"}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sun, 06 Nov 1994 9:49:37 GMT"}, "freshness"),
    Fresh("9110 5.6.7", {"Expires": "Sun, 31 Nov 1994 09:49:37 GMT"}, "freshness"),
    Fresh("9111 4.2.3", {"Cache-Control": "max-age=60", "Age": "50"}, 10),
    Fresh("9111 4.2.3", {"Cache-Control": "max-age=60", "Age": "50"}, 7, delay=3),
    Fresh("9111 4.2.3", {"Cache-Control": "max-age=60"}, 57, delay=3),
    Fresh("9111 4.2.3", {"Cache-Control": "max-age=60", "Date": HOUR_BEFORE}, "freshness"),
    Fresh("9111 4.2.3", {"Cache-Control": "max-age=7260", "Date": HOUR_BEFORE}, 3660),
    Fresh("9111 4.2.3", {"Cache-Control": "max-age=60", "Date": HOUR_LATER}, 60),
    Fresh("9111 5.1", {"Cache-Control": "max-age=60", "Age": "x"}, 60),
    Fresh("9111 5.1", {"Cache-Control": "max-age=60", "Age": "-50"}, 60),
    Fresh("9111 5.1", {"Cache-Control": "max-age=60", "Age": "50.5"}, 60),
    Fresh("9111 5.1", {"Cache-Control": "max-age=60", "Age": "50, 0"}, 10),
    Fresh("9111 5.1", {"Cache-Control": "max-age=60", "Age": ["50", "0"]}, 10),
    Fresh("9111 5.1", {"Cache-Control": "max-age=60", "Age": "9" * 5000}, "freshness"),
    Fresh("9111 4.2.2", {"Last-Modified": TEN_HOURS_BEFORE, "Date": DATE}, "freshness"),
    Fresh("9111 4.2.2", {"Last-Modified": TEN_HOURS_BEFORE}, 3600, heuristic=0.1),
    Fresh("9111 4.2.2", {"Last-Modified": TEN_HOURS_BEFORE}, "freshness", 201, heuristic=0.1),
    Fresh("9111 4.2.2", {"Last-Modified": TEN_HOURS_BEFORE}, 3600, 404, heuristic=0.1),
    Fresh("9111 4.2.2", {"Last-Modified": TEN_HOURS_BEFORE}, "status", 403, heuristic=0.1),
    Fresh("9111 4.2.2", {"Last-Modified": "Tue, 06 Nov 1984 08:49:37 GMT"}, 86400, heuristic=0.1),
    Fresh("9111 4.2.2", {"Last-Modified": HOUR_LATER}, "freshness", heuristic=0.1),
    Fresh("9111 4.2.2", {"Last-Modified": "never"}, "freshness", heuristic=0.1),
    Fresh(
        "9111 4.2.2",
        {"Last-Modified": TEN_HOURS_BEFORE, "Cache-Control": "public"},
        3600,
        599,
        heuristic=0.1,
    ),
    Fresh(
        "9111 4.2.2",
        {"Last-Modified": TEN_HOURS_BEFORE, "Cache-Control": "max-age=5"},
        5,
        heuristic=0.1,
    ),
    Fresh("5861 3", {"Cache-Control": "max-age=0, stale-while-revalidate=60"}, 0),
    Fresh("5861 4", {"Cache-Control": "max-age=0, stale-if-error=60"}, 0),
    Fresh("9110 15.5.1", {}, "status", 400),
    Fresh("9111 3", {"Cache-Control": "max-age=60"}, 60, 400),
    Fresh(
        "9213 2.2",
        {"A": "max-age=60", "Cache-Control": "max-age=5"},
        60,
        targets=("A",),
    ),
    Fresh("9213 2.2", {"Cache-Control": "max-age=5"}, 5, targets=("A",)),
    Fresh("9213 2.2", {"A": "", "Cache-Control": "max-age=5"}, 5, targets=("A",)),
    Fresh("9213 2.1", {"A": "max-age=", "Cache-Control": "max-age=5"}, 5, targets=("A",)),
    Fresh("9213 2.1", {"A": 'max-age="60"'}, 60, targets=("A",)),
    Fresh("9213 2.1", {"A": "max-age=6.5"}, "freshness", targets=("A",)),
    Fresh("9213 2.1", {"A": "max-age=60;p=1"}, 60, targets=("A",)),
    Fresh("9213 2.2", {"A": "public", "Expires": HOUR_LATER}, "freshness", targets=("A",)),
    Fresh("9213 2.2", {"A": "!", "B": "max-age=60"}, 60, targets=("A", "B")),
    Fresh("9213 2.2", {"A": "no-cache", "B": "max-age=60"}, "freshness", targets=("A", "B")),
]


BODY = b"0123456789"


@dataclass(frozen=True)
class Asked:
    """What a request with conditions is sent of a complete response."""

    section: str
    request: Fields
    response: Fields
    then: object
    """A status, or the text that a 206 has."""
    method: str = "GET"
    status: int = 200
    stored_at: float = NOW
    body: bytes = BODY

    def __str__(self) -> str:
        return f"{self.section} {self.method} {self.request} {self.response}"


ETAG: Fields = {"ETag": '"a"'}
WEAK: Fields = {"ETag": 'W/"a"'}
MODIFIED: Fields = {"Last-Modified": HOUR_BEFORE, "Date": DATE}
GZIP: Fields = {"Accept-Encoding": "gzip, br"}


ASKED = [
    Asked("9110 13.1.2", {"If-None-Match": '"a"'}, ETAG, 304),
    Asked("9110 13.1.2", {"If-None-Match": 'W/"a"'}, ETAG, 304),
    Asked("9110 13.1.2", {"If-None-Match": '"a"'}, WEAK, 304),
    Asked("9110 13.1.2", {"If-None-Match": '"b"'}, ETAG, 200),
    Asked("9110 13.1.2", {"If-None-Match": '"b", "a", W/"c"'}, ETAG, 304),
    Asked("9110 13.1.2", {"If-None-Match": ['"b"', '"a"']}, ETAG, 304),
    Asked("9110 13.1.2", {"If-None-Match": '"b,"a""'}, ETAG, 200),
    Asked("9110 13.1.2", {"If-None-Match": "*"}, ETAG, 304),
    Asked("9110 13.1.2", {"If-None-Match": "*"}, {}, 304),
    Asked("9110 13.1.2", {"If-None-Match": '"a,b"'}, {"ETag": '"a,b"'}, 304),
    Asked("9110 13.1.2", {"If-None-Match": '"a"'}, {}, 200),
    Asked("9110 13.1.2", {"If-None-Match": '"a"'}, ETAG, 304, "HEAD"),
    Asked("9110 13.1.2", {"If-None-Match": '"a"'}, ETAG, 412, "POST"),
    Asked("9110 13.2.1", {"If-None-Match": '"a"'}, ETAG, 404, status=404),
    Asked("9110 13.1.3", {"If-Modified-Since": HOUR_BEFORE}, MODIFIED, 304),
    Asked("9110 13.1.3", {"If-Modified-Since": DATE}, MODIFIED, 304),
    Asked("9110 13.1.3", {"If-Modified-Since": TEN_HOURS_BEFORE}, MODIFIED, 200),
    Asked("9110 13.1.3", {"If-Modified-Since": "Sun Nov  6 07:49:37 1994"}, MODIFIED, 304),
    Asked("9110 13.1.3", {"If-Modified-Since": "yesterday"}, MODIFIED, 200),
    Asked("9110 13.1.3", {"If-Modified-Since": [DATE, DATE]}, MODIFIED, 200),
    Asked("9110 13.1.3", {"If-Modified-Since": DATE}, MODIFIED, 200, "POST"),
    Asked("9111 4.3.2", {"If-Modified-Since": HOUR_LATER}, {"Date": DATE}, 304),
    Asked("9111 4.3.2", {"If-Modified-Since": HOUR_BEFORE}, {"Date": DATE}, 200),
    Asked("9111 4.3.2", {"If-Modified-Since": DATE}, {}, 304),
    Asked(
        "9110 13.2.2",
        {"If-None-Match": '"b"', "If-Modified-Since": DATE},
        {**ETAG, **MODIFIED},
        200,
    ),
    Asked(
        "9110 13.2.2",
        {"If-None-Match": '"a"', "If-Modified-Since": TEN_HOURS_BEFORE},
        {**ETAG, **MODIFIED},
        304,
    ),
    Asked("9110 13.1.1", {"If-Match": '"a"'}, ETAG, 200),
    Asked("9110 13.1.1", {"If-Match": '"b", "a"'}, ETAG, 200),
    Asked("9110 13.1.1", {"If-Match": "*"}, {}, 200),
    Asked("9110 13.1.1", {"If-Match": '"b"'}, ETAG, 412),
    Asked("9110 13.1.1", {"If-Match": 'W/"a"'}, WEAK, 412),
    Asked("9110 13.1.4", {"If-Unmodified-Since": HOUR_BEFORE}, MODIFIED, 200),
    Asked("9110 13.1.4", {"If-Unmodified-Since": TEN_HOURS_BEFORE}, MODIFIED, 412),
    Asked("9110 13.1.4", {"If-Unmodified-Since": TEN_HOURS_BEFORE}, {"Date": DATE}, 200),
    Asked(
        "9110 13.2.2",
        {"If-Match": '"a"', "If-Unmodified-Since": TEN_HOURS_BEFORE},
        {**ETAG, **MODIFIED},
        200,
    ),
    Asked("9110 14.2", {"Range": "bytes=2-4"}, {}, b"234"),
    Asked("9110 14.2", {"Range": "Bytes=2-4"}, {}, b"234"),
    Asked("9110 14.1.2", {"Range": "bytes=2-"}, {}, b"23456789"),
    Asked("9110 14.1.2", {"Range": "bytes=-3"}, {}, b"789"),
    Asked("9110 14.1.2", {"Range": "bytes=-30"}, {}, BODY),
    Asked("9110 14.1.2", {"Range": "bytes=0-99"}, {}, BODY),
    Asked("9110 14.1.2", {"Range": "bytes=9-" + "9" * 5000}, {}, b"9"),
    Asked("9110 14.1.2", {"Range": "bytes=10-"}, {}, 416),
    Asked("9110 14.1.2", {"Range": "bytes=" + "9" * 5000 + "-"}, {}, 416),
    Asked("9110 14.1.2", {"Range": "bytes=-0"}, {}, 416),
    Asked("9110 14.1.2", {"Range": "bytes=-3"}, {}, 200, body=b""),
    Asked("9110 14.1.2", {"Range": "bytes=-0"}, {}, 416, body=b""),
    Asked("9110 14.1.2", {"Range": "bytes=0-"}, {}, 416, body=b""),
    Asked("9110 14.1.1", {"Range": "bytes=4-2"}, {}, 200),
    Asked("9110 14.2", {"Range": "bytes=a-b"}, {}, 200),
    Asked("9110 14.2", {"Range": "bytes=-"}, {}, 200),
    Asked("9110 14.2", {"Range": "rows=0-1"}, {}, 200),
    Asked("9110 14.2", {"Range": "bytes=0-1, 3-4"}, {}, 200),
    Asked("9110 14.2", {"Range": ["bytes=0-1", "bytes=3-4"]}, {}, 200),
    Asked("9110 14.2", {"Range": "bytes=2-4"}, {}, 200, "HEAD"),
    Asked("9110 14.2", {"Range": "bytes=2-4"}, {}, 200, "POST"),
    Asked("9110 14.2", {"Range": "bytes=2-4"}, {}, 404, status=404),
    Asked("9110 14.3", {"Range": "bytes=2-4"}, {"Accept-Ranges": "none"}, 200),
    Asked("9110 13.2.2", {"Range": "bytes=2-4", "If-None-Match": '"a"'}, ETAG, 304),
    Asked("9110 13.1.5", {"Range": "bytes=2-4", "If-Range": '"a"'}, ETAG, b"234"),
    Asked("9110 13.1.5", {"Range": "bytes=2-4", "If-Range": '"b"'}, ETAG, 200),
    Asked("9110 13.1.5", {"Range": "bytes=2-4", "If-Range": 'W/"a"'}, WEAK, 200),
    Asked("9110 13.1.5", {"Range": "bytes=20-", "If-Range": '"b"'}, ETAG, 200),
    Asked("9110 13.1.5", {"If-Range": '"a"'}, ETAG, 200),
    Asked("9110 13.1.5", {"Range": "bytes=2-4", "If-Range": HOUR_BEFORE}, MODIFIED, b"234"),
    Asked("9110 13.1.5", {"Range": "bytes=2-4", "If-Range": DATE}, MODIFIED, 200),
    Asked(
        "9110 8.8.2.2",
        {"Range": "bytes=2-4", "If-Range": DATE},
        {"Last-Modified": DATE, "Date": DATE},
        200,
    ),
    Asked("9110 8.8.3.3", {"Range": "bytes=2-4", "If-Range": '"a"', **GZIP}, ETAG, 200),
    Asked(
        "9110 8.8.3.3",
        {"Range": "bytes=2-4", "If-Range": '"a"', "Accept-Encoding": "gzip;q=0, identity"},
        ETAG,
        b"234",
    ),
    Asked(
        "9110 8.8.3.3",
        {"Range": "bytes=2-4", "If-Range": '"a"', **GZIP},
        {**ETAG, "Content-Encoding": "gzip"},
        b"234",
    ),
    Asked(
        "9110 8.8.3.3",
        {"Range": "bytes=2-4", "If-Range": '"a"', **GZIP},
        {**ETAG, "Content-Type": "video/mp4"},
        b"234",
    ),
    Asked("9110 8.8.3.3", {"Range": "bytes=2-4", **GZIP}, ETAG, b"234"),
]


@dataclass(frozen=True)
class Alike:
    """Whether two requests select the same response."""

    section: str
    name: str
    one: list[str]
    other: list[str]
    then: bool = field(default=True)

    def __str__(self) -> str:
        return f"{self.section} {self.name} {self.one} {self.other}"


ALIKE = [
    Alike("9111 4.1", "x-a", ["1, 2"], ["1", "2"]),
    Alike("9111 4.1", "x-a", ["1,2"], [" 1 ,\t2 "]),
    Alike("9111 4.1", "x-a", ["1,2"], ["12"], False),
    Alike("9111 4.1", "x-a", ["1", "2"], ["2", "1"], False),
    Alike("9111 4.1", "x-a", ["1,"], ["1"], False),
    Alike("9111 4.1", "x-a", ["a b"], ["a  b"], False),
    Alike("9111 4.1", "x-a", ["1, 2"], ["2, 1"], False),
    Alike("9111 4.1", "x-a", ["a"], ["A"], False),
    Alike("9111 4.1", "x-a", [], [""], False),
    Alike("9111 4.1", "x-a", [], []),
    Alike("9111 4.1", "x-a", ['"a, b"'], ['"a,b"'], False),
    Alike("9111 4.1", "x-a", ['"a, b'], ['"a,b'], False),
    Alike("9110 12.5.4", "accept-language", ["en, de"], ["de", "EN"]),
    Alike("9110 12.5.4", "accept-language", ["en, de;q=0.5"], ["de;q=0.500 ,en;q=1.0"]),
    Alike("9110 12.5.4", "accept-language", ["en, de;q=0.5"], ["de, en;q=0.5"], False),
    Alike("9110 12.5.4", "accept-language", ["en, de;q=0.5"], ["en, de"], False),
    Alike("9110 12.5.4", "accept-language", ["en;x"], ["EN;x"], False),
    Alike("9110 12.5.3", "accept-encoding", ["gzip, br"], ["BR,gzip"]),
    Alike("9110 12.5.3", "accept-encoding", ["gzip, br"], ["gzip"], False),
    Alike("9110 12.5.3", "accept-encoding", ["gzip;q=0, br"], ["gzip, br"], False),
    Alike("9110 12.5.3", "accept-encoding", [], ["identity"], False),
]
