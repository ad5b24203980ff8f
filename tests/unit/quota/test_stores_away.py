"""Stores that come and go, in simulated time: no minute of Plaud's holds more than the figure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plaud_provider.emulator.limits import busiest_minute
from plaud_provider.quota import stores
from plaud_provider.quota.document import from_document, to_document
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.stores import Change, FallbackStore, MemoryStore, StoreUnavailableError
from tests.unit.quota.world import World

T = TypeVar("T")


class Away:
    """A store that is away at times; its clock may differ from the hosts'."""

    def __init__(self, world: World, *, clock_ahead: float = 0.0) -> None:
        self.quota = Quota()
        self.away_until = 0.0
        self._world = world
        self._clock_ahead = clock_ahead

    def update(self, change: Change[T]) -> T:
        if self._world.now < self.away_until:
            raise StoreUnavailableError("away")
        self.quota = from_document(to_document(self.quota))
        return change(self.quota, self._world.now + self._clock_ahead)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return simulated(monkeypatch, Rate(60.0))


def simulated(monkeypatch: pytest.MonkeyPatch, rate: Rate) -> World:
    made = World(rate)
    monkeypatch.setattr(
        stores, "time", SimpleNamespace(time=lambda: made.now, monotonic=lambda: made.now - 1_700_000_000)
    )
    return made


def start_hosts(
    world: World, database: Away, hosts: int, *, processes: int = 3, network: float = 0.5
) -> None:
    """Start hosts whose processes share a database, and have a file each while it is away."""
    for host in range(hosts):
        file = MemoryStore()
        for process in range(processes):
            store = FallbackStore(database, file, consequence="")
            world.keep_sending(f"{host}-{process}", store=store, network=network)


@pytest.mark.parametrize("seconds", [0.5, 30.0, 300.0])
@pytest.mark.parametrize(("hosts", "clock_ahead"), [(1, 0.0), (3, -3600.0), (4, 3600.0)])
def test_while_a_database_is_away_no_minute_holds_more_than_the_figure(
    world: World, hosts: int, seconds: float, clock_ahead: float
) -> None:
    database = Away(world, clock_ahead=clock_ahead)
    start_hosts(world, database, hosts)
    world.run(130)
    database.away_until = world.now + seconds
    world.run(seconds)
    back_at = world.now
    world.run(300)

    assert busiest_minute(world.received) <= 60
    # It goes on meanwhile, and at full speed again after three minutes.
    if seconds == 300.0:
        assert sum(back_at - 240 < moment <= back_at for moment in world.received) >= 2 * hosts
    assert sum(moment > back_at + 180 for moment in world.received) >= 0.95 * 120


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    outages=st.lists(st.tuples(st.floats(0, 130), st.floats(0.1, 150)), min_size=1, max_size=3),
    hosts=st.integers(1, 4),
    network=st.sampled_from([0.2, 5.0, 40.0]),
    limit=st.sampled_from([5.0, 20.0, 130.0]),
)
def test_whenever_a_database_comes_and_goes_no_minute_holds_more(
    monkeypatch: pytest.MonkeyPatch,
    outages: list[tuple[float, float]],
    hosts: int,
    network: float,
    limit: float,
) -> None:
    world = simulated(monkeypatch, Rate(limit))
    database = Away(world)
    start_hosts(world, database, hosts, network=network)
    for there, away in outages:
        world.run(there)
        database.away_until = world.now + away
        world.run(away)
    world.run(150)

    assert busiest_minute(world.received) <= limit


@pytest.mark.parametrize("processes", [1, 8, 30])
def test_processes_without_a_lock_keep_to_one_request_a_minute_each(world: World, processes: int) -> None:
    """Another process was stopped with the lock in its hands."""
    file = Away(world)
    for process in range(processes):
        store = FallbackStore(file, MemoryStore(), consequence="")
        world.keep_sending(f"process{process}", store=store)
    world.run(100)
    file.away_until = world.now + 300
    world.run(300)
    meanwhile = sum(moment > world.now - 200 for moment in world.received)
    world.run(300)

    assert busiest_minute(world.received) <= 60
    assert meanwhile >= 2 * processes
    assert sum(moment > world.now - 120 for moment in world.received) >= 0.95 * 120


def test_tasks_that_start_while_the_database_is_away_do_not_hold_the_host_up(world: World) -> None:
    """Each is a process of its own, which begins with the second store."""
    database = Away(world)
    file = MemoryStore()
    database.away_until = world.now + 3600

    def start(task: int) -> None:
        world.keep_sending(f"task{task}", store=FallbackStore(database, file, consequence=""))

    for task in range(30):
        world.at(20.0 * task, lambda task=task: start(task))  # type: ignore[misc]
    world.run(600)

    assert len(world.received) >= 8
