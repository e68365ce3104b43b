"""What the lifespan of an application has put into its state, and so is the same for all clients.

Servers give each request a copy of that state, and keep the original to themselves. So the one
place where Starlette fills it is wrapped here, when the package is imported: `Router.lifespan`
notes what is there once the application has started.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from stream_cached.keys.references import Reference, reference_to

#: The states of applications, as they were after start-up.
_states: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()

#: What was in the `app.state` of applications when they had started.
_own: WeakKeyDictionary[Any, dict[str, Reference]] = WeakKeyDictionary()

#: Holds something once a lifespan has put anything into a state.
_has_put: list[bool] = []

_NO_STATE: Mapping[str, Any] = {}


def remember_state(app: Any, state: Mapping[str, Any]) -> None:
    """Note the state of an application that has started."""
    _states[app] = dict(state)
    _own[app] = {name: reference_to(value) for name, value in state_of_app(app).items()}
    if state and not _has_put:
        _has_put.append(True)


def state_of_app(app: Any) -> Mapping[str, Any]:
    """Return what is in `app.state`."""
    state: Mapping[str, Any] = getattr(getattr(app, "state", None), "_state", _NO_STATE)
    return state


def is_there_since_start(app: Any, name: str) -> bool:
    """Whether a value in `app.state` is older than the end of the start-up, or may be."""
    own = _own.get(app)
    return own is None or (name in own and own[name]() is state_of_app(app).get(name))


def is_of_lifespan(scope: Mapping[str, Any], name: str, value: object) -> bool:
    """Whether a value in `request.state` is what the lifespan has put there under that name."""
    return _is_in(lifespan_states(scope), name, value)


def own_names(scope: Mapping[str, Any]) -> list[str]:
    """Return the names in `request.state` that the lifespan did not put there, or that are gone."""
    if not (scope.get("state") or _has_put):
        return []
    state, states = scope.get("state") or _NO_STATE, lifespan_states(scope)
    own = [name for name, value in state.items() if not _is_in(states, name, value)]
    gone = states[0].keys() - state.keys() if len(states) == 1 else ()
    return sorted([*own, *(f"-{name}" for name in gone)])


def _is_in(states: Sequence[Mapping[str, Any]], name: str, value: object) -> bool:
    return any(name in state and state[name] is value for state in states)


def lifespan_states(scope: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return what the lifespan has put into the state of the application of a request."""
    app = scope.get("app")
    if app is None:
        return ()
    given = _states.get(app)
    # The lifespan of an application that is mounted within another one is not run.
    return tuple(_states.values()) if given is None else (given,)


def _noting(lifespan: Any) -> Any:
    @functools.wraps(lifespan)
    async def noting(self: Router, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete" and scope.get("app") is not None:
                remember_state(scope["app"], scope.get("state") or _NO_STATE)
            await send(message)

        await lifespan(self, scope, receive, sending)

    return noting


Router.lifespan = _noting(Router.lifespan)  # type: ignore[method-assign]
