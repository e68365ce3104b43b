"""Make a store of bodies from the URL of a bucket or a container."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from obstore.store import AzureStore, GCSStore, S3Store

from stream_cached.bodies.objects import Bucket, ObjectBodies, Timing

#: Longer than any reading takes: what bounds one is the time from piece to piece.
_NO_TIMEOUT = datetime.timedelta(days=7)

_TIMING = tuple(field.name for field in dataclasses.fields(Timing))

#: How obstore calls each option, by scheme. It takes what is missing from the environment.
_SETTINGS: dict[str, dict[str, str]] = {
    "s3": {
        "access_key_id": "access_key_id",
        "secret_access_key": "secret_access_key",
        "session_token": "session_token",
        "endpoint": "endpoint",
        "region": "region",
        "virtual_hosted_style": "virtual_hosted_style_request",
    },
    "gs": {"endpoint": "base_url", "service_account": "service_account"},
    "az": {
        "account_name": "account_name",
        "account_key": "account_key",
        "sas_token": "sas_key",
        "endpoint": "endpoint",
    },
}

_CLASSES: dict[str, Callable[..., Bucket]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}


def bucket_from_url(parts: SplitResult, query: Mapping[str, str]) -> ObjectBodies:
    """
    Return the store of `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.

    Raises:
        ValueError: The URL can't be one; the message says what to write.
    """
    settings = _SETTINGS[parts.scheme]
    known = {*settings, *_TIMING, "allow_http"}
    for option in query:
        if option not in known:
            raise ValueError(f"unknown option {option!r}: use one of {', '.join(sorted(known))}")
    prefix = unquote(parts.path).strip("/")
    _check(parts, query)
    times: Any = {name: _number(name, query[name]) for name in _TIMING if name in query}
    timing = Timing(**times)
    config: dict[str, Any] = {
        setting: query[name] for name, setting in settings.items() if name in query
    }
    if "virtual_hosted_style" in query:
        config["virtual_hosted_style_request"] = _truth(query, "virtual_hosted_style")

    def made(**client: Any) -> Bucket:
        return _CLASSES[parts.scheme](
            parts.netloc,
            prefix=prefix or None,
            config=config,
            client_options={
                "allow_http": _truth(query, "allow_http"),
                "connect_timeout": _seconds(timing.connect_timeout),
                **client,
            },
            retry_config=_retries(timing, for_ever="read_timeout" in client),
        )

    try:
        # What does not come in half of the time is asked for a second time.
        reads = made(timeout=_NO_TIMEOUT, read_timeout=_seconds(timing.timeout / 2))
        writes = made(timeout=_seconds(timing.upload_timeout))
    except Exception as exc:
        # The exception's text may quote a secret.
        raise ValueError(
            f"obstore does not take it ({type(exc).__name__}): correct the options in it, and "
            "those in the environment"
        ) from None
    name = "/".join(each for each in (f"{parts.scheme}://{parts.netloc}", prefix) if each)
    if "endpoint" in query:
        name = f"{name}?endpoint={query['endpoint']}"
    return ObjectBodies(name, reads, writes, timing)


def _check(parts: SplitResult, query: Mapping[str, str]) -> None:
    what = "container" if parts.scheme == "az" else "bucket"
    if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc:
        raise ValueError(
            f"write {parts.scheme}://{what}/prefix, and credentials into the query or into the "
            "environment"
        )
    if ("access_key_id" in query) != ("secret_access_key" in query):
        raise ValueError("write both access_key_id= and secret_access_key=, or none of them")
    endpoint = urlsplit(query.get("endpoint", "https://host"))
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname or "@" in endpoint.netloc:
        raise ValueError("endpoint: write https://host:port, without user and password")
    if endpoint.scheme == "http" and not _truth(query, "allow_http"):
        raise ValueError("the endpoint has no TLS: write https://, or add allow_http=true")


def _retries(timing: Timing, *, for_ever: bool) -> Any:
    return {
        "max_retries": timing.retries,
        # One reading may have its retries at any time.
        "retry_timeout": _NO_TIMEOUT if for_ever else _seconds(timing.retry_timeout),
        "backoff": {
            "init_backoff": _seconds(0.1),
            "max_backoff": _seconds(1.0),
            "base": 2,
        },
    }


def _seconds(value: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=value)


def _number(name: str, text: str) -> float | int:
    if name == "retries":
        if not text.isdecimal():
            raise ValueError(f"retries={text}: write a whole number, 0 or more")
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={text}: write a number of seconds above 0")
    return value


def _truth(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError(f"{name}={text}: write true or false")
    return text in ("true", "1")
