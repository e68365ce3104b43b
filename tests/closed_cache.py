"""A cache of cashews whose connections are closed in the loop that they belong to."""

from __future__ import annotations

from typing import Any

import cashews

from tests.app_server import AppServer


class Cache(cashews.Cache):
    """One that is closed when the next app has stopped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        AppServer.closers.append(self.close)
