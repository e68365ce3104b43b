"""What a Redis will say again and again, until somebody changes a setting: and which one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from redis import exceptions

CLUSTER = (
    "the server is a Redis in cluster mode (a cluster), which is not supported, because one "
    "command reads keys of several slots: use a Redis without cluster mode"
)
PASSWORD = "the server does not accept the user or the password: correct them in the cache's URL"
PERMISSION = (
    "the user may not do what the cache has to do: permit GET, MGET, SET, DEL, EXISTS, PEXPIRE, "
    "PERSIST and EVAL on the keys of its namespace (ACL SETUSER)"
)
CERTIFICATE = (
    "the TLS of both sides does not match: look at ssl_ca_certs, ssl_certfile, ssl_keyfile and "
    "ssl_check_hostname in the cache's URL, and at the server's certificate"
)
NEEDS_TLS = "the server speaks TLS, and the cache's URL does not: write rediss:// for redis://"
HAS_NO_TLS = (
    "the cache's URL asks for TLS, which the server does not speak: write redis:// for rediss://"
)
DATABASE = "the server has no database of this number: write another one into the cache's URL"
COMMAND = "the server lacks a command that the cache needs: use one that has all of a Redis"

#: A connection that ends may be made again.
_ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

_BY_CLASS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    # redis-py has it beneath ClusterDownError. A replica says so while it has lost its master.
    (exceptions.MasterDownError, ""),
    (
        (exceptions.ClusterCrossSlotError, exceptions.AskError, exceptions.ClusterDownError),
        CLUSTER,
    ),
    ((exceptions.AuthenticationError, exceptions.AuthorizationError), PASSWORD),
    (exceptions.NoPermissionError, PERMISSION),
)

_BY_TEXT = (
    ("DB index is out of range", DATABASE),
    ("Invalid Database", DATABASE),
    ("unknown command", COMMAND),
    ("CROSSSLOT", CLUSTER),
)


def fix_of(exc: BaseException) -> str:
    """Return what to change where an error will not go away by itself; empty for any other one."""
    for each in _causes(exc):
        if isinstance(each, ssl.SSLError):
            return "" if isinstance(each, _ENDS) else _tls_fix(each)
        for classes, fix in _BY_CLASS:
            if isinstance(each, classes):
                return fix
        for text, fix in _BY_TEXT:
            if isinstance(each, exceptions.RedisError) and text in str(each):
                return fix
    return ""


def _tls_fix(exc: ssl.SSLError) -> str:
    return HAS_NO_TLS if getattr(exc, "reason", "") == "WRONG_VERSION_NUMBER" else CERTIFICATE


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
