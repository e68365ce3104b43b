"""What a key has of a request beside its URL, its headers and the arguments of its view.

Middleware may put a value of its own in the place of what Django puts on each request: the path,
the site, the match of the route. The key has these values, so that a view may read them.
"""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import ResolverMatch, get_urlconf
from django.utils import timezone, translation

from stream_cached.django.observed import own_attributes
from stream_cached.django.requests import are_same, inner_request, is_wrapped
from stream_cached.endpoint.objects import is_plain
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.canonical import NoCanonicalFormError, canonical
from stream_cached.keys.digest import class_name

#: Attributes of a request of Django whose values are part of the key.
KEYED = frozenset(
    {
        *("LANGUAGE_CODE", "_encoding", "csrf_cookie_needs_reset", "csrf_cookie_needs_update"),
        *("csrf_processing_done", "current_app", "path_info", "resolver_match", "site", "urlconf"),
    }
)

#: Stands for a value that can't be part of the key: an answer that reads it is not cached.
_UNKNOWN = "unknown"

#: What middleware of Django sets on each request, where a project has it.
_OF_CLIENT = ("_messages", "auser", "session", "user")

#: What Django sets on the match of a route.
_OF_MATCH = frozenset(
    {
        *("_func_path", "app_name", "app_names", "args", "captured_kwargs", "extra_kwargs"),
        *("func", "kwargs", "namespace", "namespaces", "route", "tried", "url_name", "view_name"),
    }
)

#: The match says the same as these do.
_OF_ROUTE = ("_func_path", "app_names", "namespaces", "route", "url_name")


def around(
    request: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, host: bool
) -> tuple[dict[str, Any], frozenset[str]]:
    """
    Return the forms of what is around a request, and the attributes of which the key has the value.

    Args:
        request: The request, of Django or of REST Framework.
        args: What the view is given beside it.
        kwargs: What it is given by name.
        host: Whether the key has the host.

    Raises:
        BypassError: The time zone can't be part of a key.
    """
    inner = inner_request(request)
    forms = _of_thread()
    if is_wrapped(request):
        forms["<version>"] = str(getattr(request, "version", None))
        renderer = getattr(request, "accepted_renderer", None)
        forms["<format>"] = str(getattr(renderer, "format", None))
    if host and (raw := _host(inner)) != raw.lower():
        # The rest of the key takes all spellings for one.
        forms["<host>"] = raw
    own = own_attributes(inner)
    if absent := [name for name in _OF_CLIENT if name not in own]:
        # Middleware may set them for others.
        forms["<without>"] = absent
    set_here = KEYED & own.keys()
    found = {name: _form(inner, name, own[name], args, kwargs) for name in set_here}
    forms |= {f"<request.{name}>": form for name, form in found.items() if form is not None}
    return forms, KEYED - {name for name, form in found.items() if form == _UNKNOWN}


def _of_thread() -> dict[str, Any]:
    """Return what Django keeps for the request that is answered, as its own cache does."""
    forms: dict[str, Any] = {}
    if settings.USE_I18N:
        forms["<language>"] = translation.get_language()
    if settings.USE_TZ:
        forms["<zone>"] = _zone_form(timezone.get_current_timezone())
    if (urlconf := get_urlconf()) is not None and urlconf != settings.ROOT_URLCONF:
        forms["<urlconf>"] = _tried(_urlconf_form, urlconf)
    return forms


def _form(
    request: HttpRequest, name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Return the form of an attribute; None if the rest of the key says the same."""
    if name == "path_info":
        return _path_form(request)
    if name == "resolver_match":
        return _tried(lambda match: _match_form(match, args, kwargs), value)
    return _tried(_OTHERS.get(name, canonical), value)


def _tried(form_of: Callable[[Any], Any], value: Any) -> Any:
    try:
        return None if value is None else [form_of(value)]
    # The value's class may raise anything.
    except Exception:
        return _UNKNOWN


def _host(request: Any) -> str:
    has_host = "HTTP_HOST" in request.META or "SERVER_NAME" in request.META
    return str(request._get_raw_host()) if has_host else ""


def _path_form(request: HttpRequest) -> list[Any] | None:
    """Return the path within the project, unless it follows from the path and the mount path."""
    meta, info = request.META, request.path_info
    script = meta.get("SCRIPT_NAME", "").rstrip("/")
    # Django makes the one of the other so, for each of its servers.
    follows = request.path == f"{script}/{info.replace('/', '', 1)}"
    if follows and meta.get("PATH_INFO", info) == info:
        return None
    return [canonical(info), canonical(meta.get("PATH_INFO"))]


def _match_form(match: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    own = vars(match)
    if type(match) is not ResolverMatch or not own.keys() <= _OF_MATCH:
        raise NoCanonicalFormError(class_name(match))
    form = [canonical(own.get(name)) for name in _OF_ROUTE]
    if not (are_same(match.args, args) and are_same(match.kwargs, kwargs)):
        form += [canonical(list(match.args)), canonical(match.kwargs)]
    return form


def _site_form(site: Any) -> list[Any]:
    cls = type(site)
    own = dict(vars(site))
    state = own.pop("_state", None)
    is_row = state is not None and hasattr(cls, "_meta") and not state.fields_cache
    if not is_row and not is_plain(cls):
        raise NoCanonicalFormError(class_name(site))
    return [class_name(site), canonical(dict(sorted(own.items())))]


def _urlconf_form(urlconf: Any) -> Any:
    return ["module", urlconf.__name__] if type(urlconf) is ModuleType else canonical(urlconf)


_OTHERS: Mapping[str, Callable[[Any], Any]] = {"site": _site_form, "urlconf": _urlconf_form}


def _zone_form(zone: datetime.tzinfo) -> Any:
    """Return what tells a time zone from others, which may have the same name."""
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return zone.key
    if type(zone) is datetime.timezone or type(zone).__module__.startswith("pytz"):
        return [class_name(zone), repr(zone)]
    fix = "activate a zone of zoneinfo, or a datetime.timezone"
    raise BypassError(Finding(NotCached.CONTEXT, f"the time zone: {class_name(zone)}", fix))
