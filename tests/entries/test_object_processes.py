"""Processes that share one Redis and one directory of bodies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Spawn
from tests.support.app_server import AppProcess
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, fetch, fetch_many
from tests.support.keyspace import Keyspace
from tests.support.object_app import CHUNK, is_one_run
from tests.support.runs import segments
from tests.support.servers import RedisServer

MIB = 1024 * 1024


class Workers:
    """Processes of one application, with what they share."""

    def __init__(self, spawn: Spawn, redis: RedisServer, directory: Path) -> None:
        self.keyspace = Keyspace(redis.port)
        self.directory = directory
        self._spawn = spawn
        self._environment = {
            "CACHE": redis.url() + "?timeout=5",
            "BODIES": f"file://{directory}/bodies",
            "DIRECTORY": str(directory),
        }

    def start(self, count: int, limits: str = "") -> list[AppProcess]:
        environment = {**self._environment, "LIMITS": limits}
        with ThreadPoolExecutor(count) as pool:
            app = "tests.support.object_app:app"
            return list(pool.map(lambda _: self._spawn(app, environment), range(count)))

    @property
    def runs(self) -> int:
        return len(list(self.directory.glob("run-*")))

    @property
    def objects(self) -> list[Path]:
        return [p for p in self.directory.glob("bodies/*/*") if p.parent.name != "unfinished"]

    @property
    def unfinished(self) -> list[Path]:
        return list(self.directory.glob("bodies/unfinished/*"))

    def release(self, hold: str = "go") -> None:
        (self.directory / hold).touch()


@pytest.fixture
def workers(
    spawn: Spawn, redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> Iterator[Workers]:
    workers = Workers(spawn, redis_server, tmp_path)
    yield workers
    workers.release("go")
    workers.release("end")


@contextlib.contextmanager
def begun(process: AppProcess, target: str) -> Iterator[RawClient]:
    """A client that has the head and the first bytes."""
    with RawClient(process.port, timeout=30) as client:
        client.send("GET", target)
        client.read_head()
        client.read_until(CHUNK)
        yield client


def has_read(process: AppProcess, size: int) -> bool:
    """Whether a process has so many bytes of a run, however slow its clients are."""
    return int(fetch(process.port, "/made").body) >= size


@pytest.mark.full
def test_a_slow_client_of_a_second_process_falls_out_of_no_window(workers: Workers) -> None:
    limits = "live_window=2MiB,spool_max=4MiB"
    first, second = workers.start(2, limits)
    target = "/?chunks=240&hold=go@16"
    with begun(first, target) as client, begun(second, target) as slow:
        workers.release()
        assert is_one_run(client.read_rest().body)
        wait_until(lambda: workers.objects and not segments(workers.keyspace.all()))
        whole = slow.read_rest()
    assert whole.complete
    assert whole.body == client.response.body
    assert workers.runs == 1


@pytest.mark.full
def test_a_second_process_reads_at_full_speed_however_slow_its_client_is(
    workers: Workers,
) -> None:
    first, second = workers.start(2, "live_window=16MiB,max_ahead=1MiB")
    target = "/?chunks=640&hold=go@16,second@200,third@400,end@630"
    with begun(first, target) as client, begun(second, target) as slow:
        for name, made in ("go", 200), ("second", 400), ("third", 630):
            workers.release(name)
            client.read_until((made - 16) * CHUNK)
            wait_until(partial(has_read, second, (made - 16) * CHUNK))
        wait_until(lambda: len(segments(workers.keyspace.all())) <= 65)
        # The window has gone on, and there is no object yet.
        assert len(slow.read_until(620 * CHUNK)) >= 620 * CHUNK
        workers.release("end")
        assert client.read_rest().body == slow.read_rest().body
    assert workers.runs == 1


@pytest.mark.full
def test_a_client_of_a_second_process_that_needs_the_object_waits_for_it(
    workers: Workers,
) -> None:
    # The first process keeps what its own client may need, however slow the machine makes that.
    (first,) = workers.start(1, "live_window=16MiB")
    (second,) = workers.start(1, "spool_max=1MiB,max_ahead=500KB")
    target = "/?chunks=640&hold=go@16,end@630"
    with begun(first, target) as client, begun(second, target) as slow:
        workers.release("go")
        client.read_until(620 * CHUNK)
        wait_until(lambda: len(segments(workers.keyspace.all())) <= 65)
        # Neither the window nor the temporary files have what it needs next.
        with pytest.raises(TimeoutError):
            slow.read_until(620 * CHUNK, timeout=0.5)
        workers.release("end")
        one, other = client.read_rest(), slow.read_rest()
        errors = one.error, other.error
        assert errors == (None, None), (len(other.body), first.output(), second.output())
        assert one.body == other.body
    assert workers.runs == 1


@pytest.mark.full
def test_a_client_of_a_second_process_that_comes_late_gets_the_object(workers: Workers) -> None:
    first, second = workers.start(2, "live_window=2MiB")
    target = "/?chunks=320&hold=go@300"
    with begun(first, target) as client, ThreadPoolExecutor(1) as pool:
        client.read_until(290 * CHUNK)
        wait_until(lambda: 0 < len(segments(workers.keyspace.all())) <= 9)
        late = pool.submit(fetch, second.port, target)
        with RawClient(second.port) as other:
            other.send("GET", target)
            with pytest.raises(TimeoutError):
                other.read_head(timeout=0.5)
        workers.release()
        assert is_one_run(client.read_rest().body)
        hit = late.result()
    assert hit.body == client.response.body
    assert workers.runs == 1


@pytest.mark.full
def test_each_client_of_a_second_process_that_waits_too_long_for_the_object_runs_the_endpoint(
    workers: Workers,
) -> None:
    first, second = workers.start(2, "live_window=2MiB,wait_timeout=1")
    target = "/?chunks=320&hold=go@300"
    with begun(first, target) as client, ThreadPoolExecutor(1) as pool:
        client.read_until(290 * CHUNK)
        wait_until(lambda: 0 < len(segments(workers.keyspace.all())) <= 9)
        late = pool.submit(fetch_many, second.port, target, count=3)
        # Each one waits as long as it may, and not for the others.
        wait_until(lambda: workers.runs == 4)
        workers.release()
        stored = client.read_rest()
        answers = late.result()
    assert all(is_one_run(answer.body) for answer in answers)
    assert len({answer.body for answer in [stored, *answers]}) == 4
    wait_until(lambda: workers.objects and not segments(workers.keyspace.all()))
    assert fetch(second.port, target).body == stored.body
    assert (workers.runs, len(workers.objects)) == (4, 1)


@pytest.mark.full
def test_a_worker_that_is_killed_in_mid_upload_leaves_no_head_and_no_object(
    workers: Workers,
) -> None:
    first, second = workers.start(2)
    target = "/?chunks=320&hold=go@300"
    with begun(first, target) as client:
        client.read_until(290 * CHUNK)
        wait_until(lambda: workers.unfinished)
        first.kill()
        assert not client.read_rest().complete
    assert workers.objects == []
    workers.release()
    again = fetch(second.port, target, timeout=30)
    assert again.complete
    assert is_one_run(again.body)
    assert workers.runs == 2
    wait_until(lambda: len(workers.objects) == 1 and not workers.unfinished)


@pytest.mark.full
def test_four_workers_and_200_cold_clients_cause_one_run(workers: Workers) -> None:
    processes = workers.start(4)
    with ThreadPoolExecutor(4) as pool:
        ask = [
            pool.submit(fetch_many, process.port, "/?chunks=64", count=50, timeout=60)
            for process in processes
        ]
        found = [response for each in ask for response in each.result()]
    broken = [response for response in found if not response.complete]
    assert not broken, (broken[0].error, len(broken[0].body), [each.output() for each in processes])
    assert len({response.body for response in found}) == 1
    assert is_one_run(found[0].body)
    assert workers.runs == 1
    wait_until(lambda: not segments(workers.keyspace.all()))
    stored = sum(len(value) for value in workers.keyspace.all().values())
    assert stored < 64 * CHUNK / 100
