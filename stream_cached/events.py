"""What is said in the log: each reason once, each change of a store's state once."""

from __future__ import annotations

import logging
from typing import Literal

from stream_cached.errors import StoreUnavailableError
from stream_cached.http.reasons import Finding, NotCached, explained

logger = logging.getLogger("stream_cached")

#: Reasons that are somebody's intention, or one response's own affair: not worth a warning.
_QUIET = frozenset(
    {
        # The store's own state is logged by `store_failed`.
        NotCached.STORE,
        NotCached.STATUS,
        NotCached.SKIPPED,
        NotCached.SWITCHED_OFF,
        NotCached.INCOMPLETE,
        NotCached.OVERTAKEN,
    }
)

#: What is said of one endpoint at the most: clients may choose what there is to say.
_MOST = 100


class Reporter:
    """
    The notices of one endpoint.

    Args:
        endpoint: Module and qualified name, and where it is written.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._said: set[tuple[object, str]] = set()
        self._failing: dict[str, str] = {}

    def not_cached(self, *findings: Finding) -> None:
        """Warn once that, and why, a response is not cached, and say what to write instead."""
        new = [f for f in findings if (f.reason, f.subject) not in self._said]
        if not new or len(self._said) > _MOST:
            return
        self._said.update((finding.reason, finding.subject) for finding in new)
        intended = all(finding.reason in _QUIET for finding in new)
        logger.log(
            logging.DEBUG if intended else logging.WARNING,
            "%s: a response is not cached (logged once): %s",
            self._endpoint,
            explained(new),
        )

    def warn(self, message: str) -> None:
        """Warn once."""
        self._once((message, ""), logging.WARNING, "%s: %s", self._endpoint, message)

    def inform(self, message: str) -> None:
        """Say once what may be as it should be."""
        self._once((message, ""), logging.INFO, "%s: %s", self._endpoint, message)

    def failed_to_renew(self, cause: Exception | int | None) -> None:
        """Warn that what is stale is served, since the endpoint has failed."""
        logger.warning(
            "%s: it could not answer anew (%r): what is stale is served for now",
            self._endpoint,
            cause,
            exc_info=cause if isinstance(cause, Exception) else None,
        )

    def store_failed(self, cause: Exception, doing: Literal["reading", "writing"]) -> None:
        """Warn of a failing store, once for each cause until it works again."""
        if isinstance(cause, StoreUnavailableError):
            # That is said once for all endpoints, by whoever pings it.
            return
        if self._failing.get(doing) != str(cause):
            self._failing[doing] = str(cause)
            logger.warning(
                "%s: the cache fails (%s); requests are answered without it",
                self._endpoint,
                cause,
            )

    def store_works(self, doing: Literal["reading", "writing"]) -> None:
        """Say that a store which failed works again."""
        if self._failing.pop(doing, None) is not None and not self._failing:
            logger.info("%s: the cache works again", self._endpoint)

    def _once(self, what: tuple[object, str], level: int, message: str, *args: object) -> None:
        if what not in self._said and len(self._said) <= _MOST:
            self._said.add(what)
            logger.log(level, message, *args)
