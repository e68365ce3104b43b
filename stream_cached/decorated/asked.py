"""What a call of a decorated function asks for: what is known before the cache is looked into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stream_cached.endpoint.function import Endpoint
from stream_cached.endpoint.tags import Tagging
from stream_cached.engine.at_hand import FirstLook
from stream_cached.engine.outcome import Call
from stream_cached.engine.request_view import RequestView
from stream_cached.engine.service import Service
from stream_cached.http.reasons import Finding
from stream_cached.http.wishes import NO_WISHES
from stream_cached.request.execution import Execution
from stream_cached.request.incoming import Incoming
from stream_cached.responses.rendering import Rendering


@dataclass(slots=True)
class Asked:
    """What a call asks for. Most calls are answered before there is more of them, a `Call`."""

    service: Service
    endpoint: Endpoint
    tagging: Tagging
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rendering: Rendering | None
    incoming: Incoming | None = None
    keyed: bool = False
    """Whether its key is built from the request."""
    key: str = ""
    versions: tuple[str, ...] = ()
    """The keys of the versions of its tags."""
    findings: tuple[Finding, ...] = ()
    """Why it is not for the cache."""

    def call(
        self,
        *,
        reads: bool = True,
        writes: bool = True,
        waits: bool = True,
        looked: FirstLook | None = None,
    ) -> Call:
        """Return it as the engine answers it; `looked` is what was looked at already."""
        service, incoming = self.service, self.incoming
        wishes, refreshes, terms = NO_WISHES, False, None
        if incoming is not None:
            incoming.look_around(self.endpoint.function)
            wishes = incoming.wishes(service.options.honor_request, service.reporter)
            refreshes = incoming.refreshes(service.reporter)
        if self.keyed:
            terms = service.headers.terms
        call = Call(
            service=service,
            execution=Execution(self.endpoint, self.args, self.kwargs, incoming, terms),
            key=self.key,
            versions=self.versions,
            tags_of=self.tagging.of_response(self.args, self.kwargs),
            request=None if incoming is None else RequestView(incoming, wishes),
            keyed=self.keyed,
            findings=self.findings,
            reads=reads and not (refreshes or wishes.no_cache),
            writes=writes and not wishes.no_store,
            waits=waits,
            rendering=self.rendering,
            looked=looked,
        )
        if looked is not None:
            call.started = looked.started
        return call
