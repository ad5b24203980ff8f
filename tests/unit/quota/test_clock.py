"""Clocks that are put forward or back: no minute of Plaud's holds more, and nobody waits for long."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
from airflow.sdk import Connection
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.emulator.limits import busiest_minute
from plaud_provider.private_folder import PrivateFolder, this_host
from plaud_provider.quota import stores
from plaud_provider.quota.clock import Clock
from plaud_provider.quota.document import from_document, to_document
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.sql_store import SqlStore
from plaud_provider.quota.stores import Change, FallbackStore, FileStore, MemoryStore, QuotaStore
from tests.unit.quota.test_sql_store import execute
from tests.unit.quota.world import GET, START, World

T = TypeVar("T")

STEPS = [-3600.0, -60.0, -2.0, 2.0, 60.0, 3600.0]


class Host:
    """A host of a simulated world, which goes by its own clock and by a database's, or by its wall clock."""

    def __init__(self, world: World, database: Database, *, up_for: float) -> None:
        self._world = world
        self._database = database
        self._name = f"host up for {up_for}"
        self._up_for = up_for
        self.processes = 0

    def update(self, change: Change[T]) -> T:
        quota = from_document(self._database.document)
        now = quota.clock.tell(
            host=self._name,
            monotonic=self._up_for + self._world.now - START,
            outer=self._world.now + self._database.put_forward,
        )
        result = change(quota, now)
        self._database.document = to_document(quota)
        return result

    def start(self, processes: int) -> Host:
        for _ in range(processes):
            self.processes += 1
            self._world.keep_sending(f"{self._name}: {self.processes}", store=self, network=0.5)
        return self


class Database:
    """A quota that hosts share, and a clock that is put forward, or back."""

    def __init__(self) -> None:
        self.document = to_document(Quota())
        self.put_forward = 0.0


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("hosts", [1, 3])
def test_a_clock_that_is_set_lets_no_more_through_and_holds_nobody_up(hosts: int, step: float) -> None:
    world, database = World(Rate(60.0)), Database()
    running = [Host(world, database, up_for=1e5 * host).start(3) for host in range(1, hosts + 1)]
    world.run(100)
    database.put_forward = step
    # New tasks of hosts that are known.
    for host in running:
        host.start(2)
    world.run(20)
    database.put_forward = 0.0
    world.run(100)

    assert busiest_minute(world.received) <= 60
    # At full speed a minute after the first time.
    assert sum(START + 160 < moment <= START + 220 for moment in world.received) >= 57


@given(
    visits=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from([0.0, 0.01, 1.0, 5.0, 70.0, 1000.0]),
            st.sampled_from([0.0, 1.0, 30.0, 3600.0]),
        ),
        max_size=30,
    ),
    direction=st.sampled_from([1.0, -1.0]),
)
def test_it_never_goes_back_nor_forward_by_more_than_has_passed(
    visits: list[tuple[int, float, float]], direction: float
) -> None:
    """Whichever host asks next, and however often the outer clock is put forward, or back."""
    clock, real, outer = Clock(), 0.0, START

    def tell(host: int) -> float:
        return clock.tell(host=str(host), monotonic=real + 1e5 * host, outer=outer)

    before = max(tell(host) for host in range(4))
    for host, passed, step in visits:
        real, outer = real + passed, outer + passed + direction * step
        is_known = str(host) in clock.visits
        now = tell(host)
        assert before <= now
        # A host that was forgotten cannot know that the clock was put forward meanwhile.
        if is_known or direction < 0:
            assert now <= before + passed + 1e-3
        before = now


def test_a_host_alone_goes_by_its_own_clock_to_the_second() -> None:
    clock = Clock()
    began = clock.tell(host="host", monotonic=7.0, outer=START)

    for passed, step in enumerate(STEPS, start=1):
        now = clock.tell(host="host", monotonic=7.0 + passed, outer=START + step)
        assert now == pytest.approx(began + passed)


def test_a_monotonic_clock_that_is_behind_is_another_host_s() -> None:
    clock = Clock()
    clock.tell(host="copied", monotonic=500.0, outer=START)

    assert clock.tell(host="copied", monotonic=3.0, outer=START + 10) == START + 10


def test_hosts_that_are_gone_are_forgotten() -> None:
    clock = Clock()
    for hour in range(100):
        clock.tell(host=str(hour), monotonic=5.0, outer=START + 3600.0 * hour)

    assert len(clock.visits) <= 2


def test_processes_of_a_host_go_by_the_same_clock() -> None:
    ask = "from plaud_provider.private_folder import this_host; print(this_host())"
    told = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True)

    assert told.stdout == f"{this_host()}\n"


class Clocks:
    """What the clocks of this host show."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.put_forward = 0.0
        self.started_at = START - 1e6

    def time(self) -> float:
        return self._world.now + self.put_forward

    def monotonic(self) -> float:
        return self._world.now - self.started_at


@pytest.fixture
def world() -> World:
    return World(Rate(60.0))


@pytest.fixture
def clocks(world: World, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks(world)
    monkeypatch.setattr(stores, "time", clocks)
    return clocks


def file_stores(folder: Path) -> Callable[[], QuotaStore]:
    return lambda: FallbackStore(FileStore(PrivateFolder(folder), "client"), MemoryStore(), consequence="")


def sqlite_stores(folder: Path) -> Callable[[], QuotaStore]:
    connection = Connection(conn_id="shared", conn_type="sqlite", host=str(folder / "shared.db"))
    return lambda: SqlStore(connection, base_url="https://openapi.plaud.ai", client_id="client")


def one_memory_store(folder: Path) -> Callable[[], QuotaStore]:
    store = MemoryStore()
    return lambda: store


@pytest.mark.parametrize("kind", [file_stores, sqlite_stores, one_memory_store])
@pytest.mark.parametrize("step", [-3600.0, 30.0, 3600.0])
def test_a_host_s_wall_clock_may_be_set(
    kind: Callable[[Path], Callable[[], QuotaStore]],
    step: float,
    private_folder: Path,
    world: World,
    clocks: Clocks,
) -> None:
    open_store, names = kind(private_folder), count()

    def start(processes: int) -> None:
        for _ in range(processes):
            world.keep_sending(f"process {next(names)}", store=open_store())

    start(3)
    world.run(70)
    clocks.put_forward = step
    start(3)
    world.run(130)

    assert busiest_minute(world.received) <= 60
    assert sum(moment > world.now - 60 for moment in world.received) >= 57


@pytest.mark.parametrize("step", [-3600.0, 0.0, 3600.0])
@pytest.mark.parametrize("down_for", [5.0, 600.0])
def test_what_was_sent_before_a_host_started_anew_counts_for_a_minute(
    down_for: float,
    step: float,
    private_folder: Path,
    world: World,
    clocks: Clocks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its wall clock may be wrong until it has been set, and no other one tells how long it was down."""
    store = FileStore(PrivateFolder(private_folder), "client")
    for request in range(60):
        assert store.update(lambda quota, now, name=str(request): take(quota, now, name)) == 0.0  # type: ignore[misc]
    world.now += down_for
    monkeypatch.setattr(stores, "this_host", lambda: "started anew")
    clocks.started_at, clocks.put_forward = world.now, step
    store = FileStore(PrivateFolder(private_folder), "client")

    world.now += 1
    assert store.update(lambda quota, now: take(quota, now, "too early")) > 0
    world.now += 60
    assert store.update(lambda quota, now: take(quota, now, "a minute later")) == 0.0


SENDER = """
import sys, time
from itertools import count
from pathlib import Path
from plaud_provider.api.effects import Operation
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.quota.rule import Rate
from plaud_provider.quota.stores import FileStore

folder, wall_clock_ahead, ends_at = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
store, rate = FileStore(PrivateFolder(folder), "client"), Rate(40.0, minute=2.0)
wall_clock, names = time.time, count()
time.time = lambda: wall_clock() + (wall_clock_ahead if int(time.monotonic() * 4) % 2 else 0.0)
while time.monotonic() < ends_at:
    name = f"{wall_clock_ahead} {next(names)}"
    wait = store.update(lambda quota, now: quota.take(name, Operation.GET, now=now, rate=rate))
    if wait == 0:
        print(time.monotonic(), flush=True)
        store.update(lambda quota, now: quota.give_back(name, now=now, rate=rate))
    time.sleep(min(wait, 0.1))
"""


def test_processes_with_wall_clocks_that_are_set_all_the_time_keep_to_the_figure(
    private_folder: Path,
) -> None:
    """Real processes; a minute takes two seconds."""
    ends_at = time.monotonic() + 9
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", SENDER, str(private_folder), str(ahead), str(ends_at)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for ahead in (-3600.0, 0.0, 2.0, 3600.0)
    ]
    told = "".join(sender.communicate(timeout=60)[0] for sender in senders)
    sent = sorted(float(moment) for moment in told.split())

    assert [sender.returncode for sender in senders] == [0, 0, 0, 0]
    assert busiest_minute([30 * moment for moment in sent]) <= 40
    assert sum(ends_at - 4 < moment <= ends_at for moment in sent) >= 30


def test_a_database_s_clock_may_be_set(postgres: Connection) -> None:
    """All that a host has to go by is what it has seen itself."""
    store = SqlStore(postgres, base_url="https://openapi.plaud.ai", client_id="client")
    began = store.update(lambda quota, now: now)
    execute(
        postgres,
        """create function public.clock_timestamp() returns timestamptz language sql
        as $$ select pg_catalog.clock_timestamp() + interval '1 hour' $$""",
    )
    execute(postgres, f'alter database "{postgres.schema}" set search_path = public, pg_catalog')
    [(ahead,)] = execute(postgres, "select extract(epoch from clock_timestamp() - now())")
    assert ahead > 3000
    # What another task of this host opens.
    store = SqlStore(postgres, base_url="https://openapi.plaud.ai", client_id="client")

    assert store.update(lambda quota, now: now) - began < 60


def take(quota: Quota, now: float, name: str) -> float:
    wait = quota.take(name, GET, now=now, rate=Rate(60.0))
    if wait == 0:
        quota.give_back(name, now=now, rate=Rate(60.0))
    return wait
