"""What a generator function gives, as the engine takes it over: items instead of a body."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response, StreamingResponse

from stream_cached.format.item_classes import ItemClasses, class_path
from stream_cached.format.items import media_type
from stream_cached.http.headers import without
from stream_cached.request.execution import Executed, Execution
from stream_cached.responses.messages import RawHeaders
from stream_cached.streams.generated import GeneratorSource


class ItemsResponse(StreamingResponse):
    """
    The items of a generator. They are never sent as they are.

    Args:
        source: The generator.
        media_type: The type of the body that they are stored as.
        beside: The headers of the response that they are rendered for.
    """

    def __init__(self, source: GeneratorSource, media_type: str, beside: RawHeaders) -> None:
        super().__init__(source.items, media_type=media_type)
        self.source = source
        self.beside = beside

    @property
    def items(self) -> Any:
        """What the function returned."""
        return self.source.items


@dataclass(eq=False)
class GeneratorExecution(Execution):
    """One call of a generator function."""

    classes: ItemClasses = field(kw_only=True)
    max_kept: int = field(kw_only=True)
    injected: Response | None = field(kw_only=True)
    """The Response of FastAPI for the dependencies of the request; None for any other call."""
    gives_ids: bool = False
    """Whether its events are sent with ids, by which a client can go on."""
    source: GeneratorSource | None = None
    """What the last run of it yields."""

    async def run(self) -> ItemsResponse:
        return self._taken(await super().run())

    async def run_watched(self, *, release: bool = False) -> Executed:
        executed = await super().run_watched(release=release)
        return Executed(self._taken(executed.result), changed_head=False)

    def _taken(self, items: Any) -> ItemsResponse:
        stand_in, beside = None, []
        if self.injected is not None:
            stand_in = _stand_in(self.classes)
            # A cookie is for one client, and each one is sent its own.
            beside = without(self.injected.raw_headers, {b"set-cookie"})
        source = GeneratorSource(items, self.classes, max_kept=self.max_kept, stand_in=stand_in)
        self.source = source
        return ItemsResponse(source, media_type(self.classes), beside)


def _stand_in(classes: ItemClasses) -> Callable[[Any], Any]:
    """Return a function for what FastAPI renders like an item that can't be stored itself."""

    def stand_in(item: Any) -> Any:
        from fastapi.encoders import jsonable_encoder

        try:
            if class_path(type(item)) == "fastapi.sse.ServerSentEvent":
                return None if item.data is None else _with_text(item, jsonable_encoder)
            # What it renders by a model is validated by that model.
            return None if classes.is_annotated else jsonable_encoder(item)
        # Then FastAPI can't render it either.
        except Exception:
            return None

    return stand_in


def _with_text(event: Any, jsonable: Callable[[Any], Any]) -> Any:
    """Return an event whose data is the text that FastAPI sends for it."""
    if hasattr(event.data, "model_dump_json"):
        text = event.data.model_dump_json()
    else:
        text = json.dumps(_finite(jsonable(event.data)))
    return event.model_copy(update={"data": None, "raw_data": text})


def _finite(data: Any) -> Any:
    """Return JSON data as FastAPI sends it."""
    from fastapi import routing

    normalize = getattr(routing, "_normalize_non_finite_floats", None)
    return data if normalize is None else normalize(data)
