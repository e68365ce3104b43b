"""Responses of one entry that many requests are given, each its own."""

from __future__ import annotations

from collections.abc import Callable

from stream_cached.entries.found import Hit
from stream_cached.entries.resource import Resource
from stream_cached.responses.replayed import ReplayResponse
from stream_cached.responses.stored import StoredResponse
from stream_cached.sending import Ending


class Prepared:
    """
    What makes the same response again, for other requests.

    Args:
        response: The response, which nobody has changed.
    """

    __slots__ = ("_attributes", "_cls", "_headers", "_hit")

    def __init__(self, response: ReplayResponse | StoredResponse) -> None:
        self._cls: type[ReplayResponse | StoredResponse] = type(response)
        self._attributes = dict(vars(response))
        # Others may change the list.
        self._headers = tuple(self._attributes.pop("raw_headers"))
        opens = self._attributes.pop("_opens", None)
        self._hit: Hit | None = None if opens is None else opens[0]
        del self._attributes["sending"]

    def response(
        self, sending: Ending, opens: Callable[[], Resource]
    ) -> ReplayResponse | StoredResponse:
        """
        Return the response for one more request.

        Args:
            sending: Reports it once it is sent.
            opens: Returns the resource of its entry.
        """
        cls, own = self._cls, {"raw_headers": [*self._headers], "sending": sending}
        if self._hit is not None:
            own["_opens"] = self._hit, opens
        response = cls.__new__(cls)
        # In one step: it takes less time than attribute by attribute.
        response.__dict__ = self._attributes | own
        return response
