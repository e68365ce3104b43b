"""Responses of one entry that many requests are given, each its own."""

from __future__ import annotations

from stream_cached.responses.replayed import ReplayResponse
from stream_cached.responses.stored import StoredResponse
from stream_cached.sending import Ending


class Prepared:
    """
    What makes the same response again, for other requests.

    Args:
        response: The response, which nobody has changed.
    """

    __slots__ = ("_attributes", "_cls")

    def __init__(self, response: ReplayResponse | StoredResponse) -> None:
        self._cls: type[ReplayResponse | StoredResponse] = type(response)
        # Others may change the list of its headers.
        self._attributes = {**vars(response), "raw_headers": [*response.raw_headers]}

    def response(self, sending: Ending) -> ReplayResponse | StoredResponse:
        """Return the response for one more request; `sending` reports it once it is sent."""
        cls = self._cls
        response = cls.__new__(cls)
        own = vars(response)
        own.update(self._attributes)
        own["raw_headers"], own["sending"] = [*own["raw_headers"]], sending
        return response
