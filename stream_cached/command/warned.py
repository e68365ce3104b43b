"""What the library logs while an application is imported and looked at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class Warned(logging.Handler):
    """Keeps the warnings of the library, instead of what the application does with them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: list[logging.LogRecord] = []
        self._told: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self._records.append(record)

    def of(self, name: str, place: str) -> list[str]:
        """Return what was said of one function."""
        endpoint = f"{name} ({place})" if place else name
        texts = []
        for index, record in enumerate(self._records):
            args = record.args if isinstance(record.args, tuple) else ()
            if args[:1] == (endpoint,):
                self._told.add(index)
                texts.append(record.getMessage().removeprefix(f"{endpoint}: "))
        return texts

    def others(self) -> list[str]:
        """Return what was said beside that, each once."""
        left = (r for i, r in enumerate(self._records) if i not in self._told)
        return list(dict.fromkeys(record.getMessage() for record in left))


@contextmanager
def warnings_of_library() -> Iterator[Warned]:
    """Keep what the library warns of within the block, and let nobody else hear it."""
    logger, warned = logging.getLogger("stream_cached"), Warned()
    before = logger.propagate
    logger.addHandler(warned)
    logger.propagate = False
    try:
        yield warned
    finally:
        logger.propagate = before
        logger.removeHandler(warned)
