"""What a view leaves beside the status, the headers and the body of its response.

A server sends its reason phrase, and middleware reads the language that the view has activated:
`LocaleMiddleware` makes a `Content-Language` of it.
"""

from __future__ import annotations

import json
from typing import Any

from django.http.response import HttpResponseBase
from django.utils import translation

#: Tells, in what is stored, what there is beside it. It is never sent.
BESIDE = b"x-stream-cached-beside"

#: Where a response has the language that its view has activated.
_LANGUAGE = "_stream_cached_language"


def note_language(response: Any, before: str | None) -> None:
    """Note the language that is active now, after a view, if it is another one than before."""
    language = translation.get_language()
    if language != before and isinstance(response, HttpResponseBase):
        setattr(response, _LANGUAGE, language)


def activate_language(response: Any) -> None:
    """Activate the language that the view has activated for this response, if it has."""
    own = getattr(response, "__dict__", {})
    if _LANGUAGE not in own:
        return
    if own[_LANGUAGE] is None:
        translation.deactivate_all()
    elif own[_LANGUAGE] != translation.get_language():
        translation.activate(own[_LANGUAGE])


def told_beside(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    """Return what tells the cache of it."""
    own, told = vars(response), dict[str, Any]()
    if own.get("_reason_phrase") is not None:
        told["reason"] = [response.status_code, response.reason_phrase]
    if _LANGUAGE in own:
        told["language"] = own[_LANGUAGE]
    return [(BESIDE, json.dumps(told).encode("ascii"))] if told else []


def set_beside(response: HttpResponseBase, value: bytes) -> None:
    """Give a response what was told of the one that is stored."""
    told = json.loads(value)
    # A 304 has a phrase of its own.
    if "reason" in told and told["reason"][0] == response.status_code:
        response.reason_phrase = told["reason"][1]
    if "language" in told:
        setattr(response, _LANGUAGE, told["language"])
