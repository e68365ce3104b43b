"""``stream-cached doctor``: what is cached of an application, in which key, and what is not."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stream_cached.command import report
from stream_cached.command.django_views import examined_project
from stream_cached.command.examine import WARNING, Examined, Pinged, examined
from stream_cached.command.loading import SETTINGS, UnableError, application, django_project
from stream_cached.command.printing import Colours
from stream_cached.command.routes import is_application, routes_of
from stream_cached.command.said import Said
from stream_cached.command.settings import Store, settings_findings, settings_notes, workers
from stream_cached.command.warned import Warned, warnings_of_library
from stream_cached.errors import StoreError
from stream_cached.http.reasons import NotCached
from stream_cached.lifespan import aclose

#: Seconds that a store has to answer a ping.
_PING = 5.0

_FIX_OF_STORE = "start the store, or correct its URL"


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="say what is cached of an application, and what is not and why",
        description="Imports an application and walks its routes. For each decorated endpoint it "
        "says where its entries are, what is in their keys, what is not cached and why, and which "
        "line fixes it. Ends with 0 if nothing is wrong, 1 with findings, 2 if the application "
        "can't be imported.",
    )
    parser.add_argument(
        "target", nargs="?", metavar="module:app", help="the application, as for uvicorn"
    )
    parser.add_argument(
        "--factory",
        action="store_true",
        default=None,
        help="module:app is a function that makes the application (a function without parameters "
        "is taken for one anyway)",
    )
    parser.add_argument("--django", action="store_true", help="look at the views of Django")
    parser.add_argument(
        "--settings", metavar="MODULE", help=f"the Django settings (default: {SETTINGS})"
    )
    parser.add_argument("--connect", action="store_true", help="ask the stores whether they answer")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--traceback", action="store_true", help="show where an import has failed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what is to be said; return the exit status."""
    try:
        # What the application prints while it is imported is no part of the output.
        with contextlib.redirect_stdout(sys.stderr), warnings_of_library() as warned:
            target, found = _examined(options, warned)
    except UnableError as exc:
        if options.traceback and exc.__cause__ is not None:
            traceback.print_exception(exc.__cause__)
        print(f"stream-cached doctor: {exc}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(report.as_json(target, found), indent=2))
    else:
        print(report.text(target, found, Colours()))
    return 1 if found.has_findings else 0


def _examined(options: argparse.Namespace, warned: Warned) -> tuple[str, Examined]:
    target: str = options.target or ""
    if options.django or options.settings or (not target and SETTINGS in os.environ):
        django_project(options.settings)
        target, found = f"the Django project of {os.environ[SETTINGS]}", examined_project()
    elif not target:
        raise UnableError("name the application, as module:app, or --django with --settings")
    else:
        found = _of_application(target, options.factory, warned)
    return target, with_settings(found, warned, connects=options.connect)


def _of_application(target: str, factory: bool | None, warned: Warned) -> Examined:
    app = application(target, factory=factory)
    if any(cls.__module__.startswith("django.") for cls in type(app).__mro__):
        # It has set the project up.
        return examined_project()
    if not is_application(app):
        kind = type(app).__name__
        raise UnableError(
            f"{target} is a {kind} without routes: name an application of FastAPI or Starlette"
        )
    return examined(routes_of(app), warned)


def with_settings(found: Examined, warned: Warned, *, connects: bool) -> Examined:
    """Return the same with what is to be said of the settings."""
    stores = [each.store for each in found.endpoints if each.store is not None]
    for store in stores:
        if store.options.bodies is not None:
            store.options.bodies.warn_unless_shared(is_shared=not store.is_in_process)
    settings = [*settings_findings(stores, workers())]
    settings += [Said.warned(each, WARNING) for each in warned.others()]
    pinged = asyncio.run(_connected(stores)) if connects else []
    settings += [
        Said(NotCached.STORE.word, f"{each.address} does not answer ({each.error})", _FIX_OF_STORE)
        for each in pinged
        if each.error
    ]
    return replace(
        found, settings=(*settings,), notes=(*settings_notes(stores),), stores=(*pinged,)
    )


async def _connected(stores: Sequence[Store]) -> list[Pinged]:
    """Ask each store on a server, and each store of bodies, once."""
    asked: dict[str, Any] = {}
    for store in stores:
        if not store.is_in_process:
            asked.setdefault(store.address, store.binding.probe.store)
        if store.options.bodies is not None:
            asked.setdefault(store.bodies, store.options.bodies)
    found = [await _ping(address, each) for address, each in asked.items()]
    await aclose()
    return found


async def _ping(address: str, store: Any) -> Pinged:
    start, error = time.perf_counter(), ""
    try:
        async with asyncio.timeout(_PING):
            await store.ping()
    except (StoreError, OSError, TimeoutError) as exc:
        error = str(exc) or type(exc).__name__
    return Pinged(address, time.perf_counter() - start, error)
