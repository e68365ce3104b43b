"""What can happen to a server and to the way there, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from tests.support.fault_proxy import FaultProxy
from tests.support.wire import Command


class Machine(Protocol):
    """A server process, as far as faults go."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def flush(self) -> None: ...


class Bench(Protocol):
    """A server behind a proxy."""

    @property
    def proxy(self) -> FaultProxy: ...
    @property
    def machine(self) -> Machine: ...
    async def quiet(self) -> None:
        """Wait until the server owes no reply."""
        ...


Change = Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One thing that can happen, and how it ends.

    Args:
        name: What it is called.
        begin: Let it happen.
        end: Let it be over.
        is_outage: Whether the store is of no use meanwhile.
        steady: Whether it looks the same to every command, or else a ping may be answered.
    """

    name: str
    begin: Change
    end: Change
    is_outage: bool = True
    steady: bool = True

    def __str__(self) -> str:
        return self.name


async def _heal(bench: Bench) -> None:
    bench.proxy.heal()


def setting(name: str, values: dict[str, float], **traits: bool) -> Fault:
    """Return a fault that is an attribute of the proxy, or several."""

    async def begin(bench: Bench) -> None:
        for attribute, value in values.items():
            setattr(bench.proxy, attribute, value)

    return Fault(name, begin, _heal, **traits)


def _answering(
    name: str,
    answer: bytes,
    spares: Callable[[Command], bool] = lambda command: False,
) -> Fault:
    async def begin(bench: Bench) -> None:
        bench.proxy.answer = lambda command: None if spares(command) else answer

    return Fault(name, begin, _heal)


async def _refuse(bench: Bench) -> None:
    await bench.proxy.refuse()


async def _listen(bench: Bench) -> None:
    await bench.proxy.listen()


async def _kill(bench: Bench) -> None:
    bench.machine.kill()


async def _start(bench: Bench) -> None:
    bench.machine.start()


async def _pause(bench: Bench) -> None:
    # What it was asked before is answered, so that a test sees the same each time.
    await bench.quiet()
    bench.machine.pause()
    bench.proxy.hangs = True


async def _resume(bench: Bench) -> None:
    bench.machine.resume()
    bench.proxy.hangs = False


async def _clog(bench: Bench) -> None:
    bench.proxy.clog()


async def _restart(bench: Bench) -> None:
    bench.machine.kill()
    bench.machine.start()


async def _flush(bench: Bench) -> None:
    bench.machine.flush()


#: What is over as soon as it has happened: the server has lost all that it held.
LOSSES = [Fault("restarted", _restart, _heal), Fault("flushed", _flush, _heal)]

_OF_ANY_SERVER = [
    setting("slow", {"delay": 0.01}, is_outage=False),
    setting("late", {"delay": 2.0}),
    setting("trickling", {"rate": 5.0}),
    setting("narrow", {"rate": 200_000.0}, steady=False, is_outage=False),
    setting("cut", {"cut_after": 0}),
    setting("cut in a reply", {"cut_after": 3}),
    setting("mute", {"swallow": True}),
    Fault("clogged", _clog, _heal),
    Fault("refused", _refuse, _listen),
    Fault("killed", _kill, _start),
    Fault("paused", _pause, _resume),
]

REDIS_FAULTS = [
    *_OF_ANY_SERVER,
    _answering(
        "OOM",
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        lambda command: not command.stores,
    ),
    _answering(
        "READONLY",
        b"-READONLY You can't write against a read only replica.\r\n",
        lambda command: not command.writes,
    ),
    _answering(
        "LOADING",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        lambda command: command.prepares,
    ),
    _answering("MOVED", b"-MOVED 1234 127.0.0.1:1\r\n", lambda command: command.prepares),
    _answering("rubbish", b"\x00\xffrubbish\r\n"),
]

MEMCACHED_FAULTS = [
    *_OF_ANY_SERVER,
    _answering(
        "out of memory",
        b"SERVER_ERROR out of memory storing object\r\n",
        lambda command: not command.stores,
    ),
    _answering("SERVER_ERROR", b"SERVER_ERROR\r\n"),
    _answering("ERROR", b"ERROR\r\n"),
    _answering("rubbish", b"\x00\xffrubbish\r\n"),
]

FAULTS = {"redis": REDIS_FAULTS, "memcached": MEMCACHED_FAULTS}


def fault_of(kind: str, name: str) -> Fault:
    """Return the fault of a kind of server by its name."""
    return next(fault for fault in FAULTS[kind] if fault.name == name)
