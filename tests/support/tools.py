"""What an application holds in the globals of a module: engines, clients, settings."""

from __future__ import annotations

import functools
import logging
from typing import Any

import httpx
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

engine = create_engine("sqlite://")

#: Two databases, of two plans.
FREE = create_engine("sqlite://")
PREMIUM = create_engine("sqlite://")

#: What a container holds is found by a key, and so may be another one for each client.
BY_TENANT = {name: create_engine("sqlite://") for name in ("alice", "bob")}

SessionLocal = sessionmaker(create_engine("sqlite://"))

Scoped = scoped_session(sessionmaker(engine))

log = logging.getLogger("application")

client = httpx.AsyncClient()


class Settings:
    """Settings as a plain class."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._engine = engine


settings = Settings("production")


class Database:
    """Holds its engine in an attribute, as many an application does."""

    engine: Engine | None = None


class Resources:
    """Holds the database in an attribute."""

    def __init__(self) -> None:
        self.database = Database()


resources = Resources()
resources.database.engine = create_engine("sqlite://")


class Application:
    """Holds what holds the database, which has a name of its own, too."""

    def __init__(self) -> None:
        self.resources = Resources()


application = Application()

far_resources = application.resources
far_resources.database.engine = create_engine("sqlite://")


class Swapped:
    """Holds another session in each request."""

    session: Any = None


swapped = Swapped()


@functools.cache
def cached_engine() -> Engine:
    """One engine for the process."""
    return create_engine("sqlite://")


@functools.lru_cache
def engine_of(name: str) -> Engine:
    """One engine for each name."""
    return create_engine("sqlite://")


def session_over(bind: Any, **info: Any) -> Session:
    return Session(bind, info=info)
