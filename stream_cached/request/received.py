"""Where the body of a request comes from: from the server, or through what may have read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import HTTPConnection, Request

from stream_cached.endpoint.cells import variables_of

#: The modules of what servers, and clients for tests, hand an application its requests by.
_SERVERS = ("httpx._transports.asgi", "starlette.testclient", "uvicorn.protocols.")

#: How many middlewares may be around an application.
_MAX_DEPTH = 64


def is_read_here(request: HTTPConnection) -> bool:
    """
    Whether only what has made this request can have read its body.

    Middleware that reads a body has to hand on another one, or the application would find none.
    """
    if type(request) is not Request:
        # A class of one's own may parse the body by itself.
        return False
    receive: Any = request._receive
    is_wrapped = False
    for _ in range(_MAX_DEPTH):
        module = _module_of(receive)
        if module.startswith(_SERVERS):
            # A middleware that has read the body as a stream hands on an empty one.
            return not is_wrapped or bool(getattr(request, "_body", b""))
        if module == "starlette.middleware.body_limit":
            receive = getattr(receive.__self__, "_receive", None)
        elif module == "starlette.middleware.base":
            outer = _outer_request(receive)
            if outer is None or _has_parsed(outer):
                return False
            is_wrapped, receive = True, outer._receive
        else:
            return False
    return False


def _module_of(receive: Any) -> str:
    owner = getattr(receive, "__self__", None)
    return str(getattr(receive if owner is None else type(owner), "__module__", ""))


def _outer_request(receive: Callable[..., Any]) -> Request | None:
    """Return the request that a `BaseHTTPMiddleware` has."""
    wrapped = variables_of(receive).get("wrapped_receive", receive)
    owner = getattr(wrapped, "__self__", None)
    return owner if isinstance(owner, Request) else None


def _has_parsed(request: Request) -> bool:
    state = vars(request)
    return any(state.get(name) is not None for name in ("_body", "_form", "_json"))
