"""An ASGI application as the response of an endpoint: Starlette calls whatever is returned."""

from __future__ import annotations

import inspect
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_cached.responses.messages import set_head


class AppResponse(Response):
    """The application as a response. Its head and its body are known by its messages only."""

    def __init__(self, app: ASGIApp) -> None:
        set_head(self, 200, (), None, "utf-8")
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and self.raw_headers:
                message = {**message, "headers": [*message.get("headers", ()), *self.raw_headers]}
            await send(message)

        await self.app(scope, receive, with_headers)
        if self.background is not None:
            await self.background()

    def __getattr__(self, name: str) -> Any:
        # What is around the endpoint may know the application.
        if name.startswith("__") or "app" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.app, name)


def as_response(result: Any) -> Response | None:
    """Return what an endpoint returned, as a response; None for a plain value."""
    if isinstance(result, Response):
        return result
    return AppResponse(result) if _is_app(result) else None


def _is_app(value: Any) -> bool:
    if not callable(value) or isinstance(value, type):
        return False
    try:
        signature = inspect.signature(value)
        signature.bind("scope", "receive", "send")
    # It takes other arguments. Or it is a function in C, which may have no signature.
    except (TypeError, ValueError):
        return False
    first = next(iter(signature.parameters.values()))
    call = inspect.getattr_static(type(value), "__call__", None)
    is_async = inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call)
    return first.name == "scope" or (is_async and first.kind is not first.VAR_POSITIONAL)
