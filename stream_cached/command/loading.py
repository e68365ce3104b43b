"""Imports the application that a command is about."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from typing import Any

from stream_cached.backends.urls import without_secrets
from stream_cached.command.routes import is_application
from stream_cached.errors import StreamCachedError

#: The variable that names the settings of a Django project.
SETTINGS = "DJANGO_SETTINGS_MODULE"


#: Exceptions whose text is about code. That of others may quote a setting.
_PLAIN = (AttributeError, ImportError, KeyError, NameError, StreamCachedError, SyntaxError)

#: Variables whose values may be secrets.
_SECRET = re.compile(r"DSN|KEY|PASS|SECRET|TOKEN|URL|CREDENTIAL", re.IGNORECASE)

#: How long a value is that is hidden where it is found.
_SHORTEST = 6


class UnableError(Exception):
    """A command can't do what it is asked for; the message has the fix."""


def application(target: str, *, factory: bool | None) -> Any:
    """
    Return the application that `module:name` names.

    Args:
        target: The module and the name in it, which may have dots.
        factory: Whether to call what has the name; None to call a function without parameters.

    Raises:
        UnableError: It can't be imported, or is no application.
    """
    module, _, name = target.partition(":")
    if not module or not name:
        raise UnableError(f"{target!r} names no application: write module:app, as for uvicorn")
    if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        raise UnableError(f"{module!r} is no name of a module: write shop.main for shop/main.py")
    found: Any = _imported(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UnableError(_no_such(module, name, found))
        found = getattr(found, part)
    if factory or (factory is None and _is_factory(found)):
        found = _made(target, found)
    if not callable(found):
        kind = type(found).__name__
        raise UnableError(f"{target} is a {kind} and no application: name the application itself")
    return found


def django_project(settings: str | None) -> None:
    """
    Set up the Django project whose settings are named, or stand in the environment.

    Raises:
        UnableError: It can't be set up.
    """
    named = settings or os.environ.get(SETTINGS)
    if not named:
        raise UnableError(f"no Django settings are named: write --settings=..., or set {SETTINGS}")
    os.environ[SETTINGS] = named
    if importlib.util.find_spec("django") is None:
        raise UnableError('Django is not installed: pip install "stream-cached[django]"')
    _imported(named)
    try:
        import django

        django.setup()
    # The application may raise anything, SystemExit included.
    except (Exception, SystemExit) as exc:
        raise UnableError(f"the Django project of {named} can't be set up: {_told(exc)}") from exc


def _imported(module: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if module == missing or module.startswith(f"{missing}."):
            fix = "start the command in the directory of the application, or set PYTHONPATH"
            raise UnableError(f"there is no module {missing}: {fix}") from exc
        fix = "install it in the environment of this command"
        raise UnableError(f"{module} needs the module {missing}: {fix}") from exc
    # The module may raise anything, SystemExit included.
    except (Exception, SystemExit) as exc:
        raise UnableError(f"{module} can't be imported: {_told(exc)}") from exc


def _is_factory(found: Any) -> bool:
    """Whether it is a function without parameters, which can't be an application itself."""
    if not inspect.isfunction(found):
        return False
    needed = inspect.Parameter.empty
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(found).parameters.values()
    return all(each.default is not needed or each.kind in kinds for each in parameters)


def _made(target: str, factory: Any) -> Any:
    try:
        return factory()
    # The application may raise anything, SystemExit included.
    except (Exception, SystemExit) as exc:
        raise UnableError(f"{target}() failed: {_told(exc)}") from exc


def _no_such(module: str, name: str, holder: Any) -> str:
    known = (
        [
            f"{module}:{other}"
            for other, value in vars(holder).items()
            if not other.startswith("_") and not inspect.isclass(value) and is_application(value)
        ]
        if inspect.ismodule(holder)
        else []
    )
    fix = f"try {known[0]}" if known else "name the variable that has the application"
    return f"{module} has no {name}: {fix}"


def _told(exc: BaseException) -> str:
    """Return an exception and its place in one line, without secrets."""
    frames = traceback.extract_tb(exc.__traceback__)
    place = f" ({os.path.relpath(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = f": {' '.join(str(exc).split())}" if isinstance(exc, _PLAIN) else ""
    told = f"{type(exc).__name__}{without_secrets(without_environment(text))}"
    return f"{told}{place}; --traceback shows where it came from"


def without_environment(text: str) -> str:
    """Return a text without the values of variables that may be secrets."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET.search(name):
            text = text.replace(value, "***")
    return text
