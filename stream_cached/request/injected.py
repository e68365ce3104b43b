"""The Response and the BackgroundTasks of a request, which FastAPI gives to its dependencies too.

What a dependency leaves on them, the endpoint can read: the names of headers and other attributes
are in the key; the value of a header, and the tasks, are noted when they are read. So a header that
is another one for each client, such as a limit, costs no hit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from starlette.background import BackgroundTask, BackgroundTasks
from starlette.datastructures import MutableHeaders
from starlette.responses import Response

from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.canonical import NoCanonicalFormError, canonical
from stream_cached.request.observed import Observer

#: Attributes that each Response has from the start, and those that the key has in another form.
_OF_RESPONSE = {"background": None, "body": b"", "status_code": None}
_HEADERS = ("raw_headers", "_headers")


def injected_forms(values: Iterable[object]) -> dict[str, Any]:
    """
    Return what the key has of the Response and the BackgroundTasks among the arguments of a call.

    Raises:
        BypassError: An attribute has no form.
    """
    forms: dict[str, Any] = {}
    for value in values:
        if isinstance(value, Response):
            names = sorted({name.lower() for name, _ in value.raw_headers})
            own = _own_attributes(value, _OF_RESPONSE, _HEADERS)
            if names or own:
                forms["<response>"] = [names, own]
        elif isinstance(value, BackgroundTasks) and (own := _own_attributes(value, {}, ("tasks",))):
            forms["<tasks>"] = own
    return forms


def _own_attributes(
    value: Any, usual: Mapping[str, object], left_out: tuple[str, ...]
) -> list[Any]:
    forms = []
    for name, item in sorted(vars(value).items()):
        if name in left_out or (name in usual and item == usual[name]):
            continue
        try:
            forms.append([name, canonical(item)])
        except NoCanonicalFormError as exc:
            what = f"{type(value).__name__}.{name} is of type {exc}"
            fix = "let the dependency that sets it return it instead, to be an argument"
            raise BypassError(Finding(NotCached.ARGUMENT, what, fix)) from exc
    return forms


class _Watch:
    """What is noted of the reads of a Response, and of nothing that the endpoint has set."""

    def __init__(self, plain: Any, observer: Observer) -> None:
        self.plain = plain
        self.observer = observer
        self._before = tuple(getattr(plain, "raw_headers", ()))

    def read(self, name: str) -> None:
        """Note the read of a header that a dependency has set."""
        key = name.lower().encode("latin-1")
        if any(field[0].lower() == key and field in self._before for field in self.headers):
            self.observer.note(f"response.{name.lower()}")

    def read_all(self) -> None:
        if self._before:
            self.observer.note("response.headers")

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        raw: list[tuple[bytes, bytes]] = self.plain.raw_headers
        return raw


class _ObservedHeaders(MutableHeaders):
    """The headers of a Response: who reads one is noted."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__(raw=watch.headers)
        self._watch = watch

    def __getitem__(self, key: str) -> str:
        self._watch.read(key)
        return super().__getitem__(key)

    def getlist(self, key: str) -> list[str]:
        self._watch.read(key)
        return super().getlist(key)

    def setdefault(self, key: str, value: str) -> str:
        self._watch.read(key)
        return super().setdefault(key, value)

    def add_vary_header(self, vary: str) -> None:
        MutableHeaders(raw=self._list).add_vary_header(vary)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        self._watch.read_all()
        return self._list

    def keys(self) -> list[str]:  # type: ignore[override]
        self._watch.read_all()
        return super().keys()

    def values(self) -> list[str]:  # type: ignore[override]
        self._watch.read_all()
        return super().values()

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
        self._watch.read_all()
        return super().items()

    def mutablecopy(self) -> MutableHeaders:
        self._watch.read_all()
        return super().mutablecopy()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __eq__(self, other: object) -> bool:
        self._watch.read_all()
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]


class ObservedResponse(Response):
    """A Response that shares its attributes with that of FastAPI, and reports who reads headers."""

    __slots__ = ("_watch",)
    _watch: _Watch

    def __init__(self) -> NoReturn:
        raise NotImplementedError

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            object.__getattribute__(self, "_watch").read_all()
        return super().__getattribute__(name)

    @property
    def headers(self) -> MutableHeaders:
        return _ObservedHeaders(self._watch)

    _headers = headers

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        self._watch.read_all()
        return self._watch.headers

    @raw_headers.setter
    def raw_headers(self, raw: list[tuple[bytes, bytes]]) -> None:
        vars(self._watch.plain).update(raw_headers=raw)

    def set_cookie(self, *args: Any, **kwargs: Any) -> None:
        self._watch.plain.set_cookie(*args, **kwargs)


class TasksOfRun:
    """
    What a run adds to the BackgroundTasks of its request, which may be sent another answer.

    Args:
        values: The arguments of the run.
    """

    def __init__(self, values: Iterable[object]) -> None:
        found = (value for value in values if isinstance(value, BackgroundTasks))
        self._before = [(value.tasks, len(value.tasks)) for value in found]

    @property
    def are_possible(self) -> bool:
        """Whether it can add any."""
        return bool(self._before)

    def forget(self) -> None:
        """Take it off again: where an endpoint fails, FastAPI carries out no task."""
        for tasks, count in self._before:
            del tasks[count:]


class ObservedTasks(BackgroundTasks):
    """BackgroundTasks that share their tasks with those of FastAPI, and report who reads them."""

    __slots__ = ("_watch",)
    _watch: _Watch

    def __init__(self) -> NoReturn:
        raise NotImplementedError

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            object.__getattribute__(self, "_watch").observer.note("tasks")
        return super().__getattribute__(name)

    @property
    def tasks(self) -> list[BackgroundTask]:
        self._watch.observer.note("tasks")
        tasks: list[BackgroundTask] = self._watch.plain.tasks
        return tasks

    @tasks.setter
    def tasks(self, tasks: list[BackgroundTask]) -> None:
        vars(self._watch.plain).update(tasks=tasks)

    def add_task(self, func: Any, *args: Any, **kwargs: Any) -> None:
        self._watch.plain.add_task(func, *args, **kwargs)

    async def __call__(self) -> None:
        await self._watch.plain()


def observed_injected(value: Any, observer: Observer) -> Any:
    """Return an argument, or in its place one that reports reads."""
    if isinstance(value, ObservedResponse | ObservedTasks):
        # It comes from another cached endpoint, which is informed, too.
        value = value._watch.plain
    if type(value) is Response:
        cls: type = ObservedResponse
    elif isinstance(value, BackgroundTasks) and type(value).__module__.endswith(".background"):
        cls = ObservedTasks
    else:
        return value
    observed: Any = object.__new__(cls)
    object.__setattr__(observed, "__dict__", vars(value))
    object.__setattr__(observed, "_watch", _Watch(value, observer))
    return observed


def plain_result(result: Any) -> Any:
    """Return what an endpoint has returned: its Response itself, with all that is on it."""
    if not isinstance(result, ObservedResponse):
        return result
    result._watch.read_all()
    return result._watch.plain
