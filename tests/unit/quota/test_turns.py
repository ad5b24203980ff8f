"""How calls wait for their turn: none is lost, none is left behind."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import TypeVar

import pytest

from plaud_provider.api.effects import Operation, ReturnSlot
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.stores import Change, MemoryStore
from plaud_provider.quota.turns import AsyncClientQuota, ClientQuota, Turn
from tests.unit.quota.conftest import reached

T = TypeVar("T")
GET, SUBMIT = Operation.GET, Operation.SUBMIT
UNUSED = ReturnSlot(sent=False)


class World:
    """A quota in memory, and a clock that goes on while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.quota = Quota()
        self.slept: list[float] = []
        self.is_frozen = False
        self.updates = 0
        self.before_update: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def update(self, change: Change[T]) -> T:
        self.before_update()
        with self._lock:
            self.updates += 1
            return change(self.quota, self.now)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.is_frozen:
            self.now += seconds

    def client(self, requests_per_minute: float) -> ClientQuota:
        rate = Rate(requests_per_minute)
        return ClientQuota(self, rate, client_id="client-7", log=logging.getLogger("test"))

    @property
    def is_empty(self) -> bool:
        return not self.quota.out and not self.quota.waiting


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    asleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        made.sleep(seconds)
        await asleep(0)

    # Not the modules' own functions: servers that other tests have left running in threads sleep as well.
    clock = SimpleNamespace(sleep=made.sleep, monotonic=lambda: made.now)
    monkeypatch.setattr("plaud_provider.quota.turns.time", clock)
    monkeypatch.setattr(
        "plaud_provider.quota.turns.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep})
    )
    return made


def test_a_call_waits_until_there_is_room(world: World) -> None:
    quota = world.client(1)
    began = world.now
    with closing(Turn(quota)) as turn:
        for _ in range(3):
            turn.take(GET)
            turn.has_sent = True
            turn.give_back(ReturnSlot())

    assert world.now - began == pytest.approx(120, abs=0.1)
    assert max(world.slept) <= 5.0


@pytest.mark.parametrize(("is_sent", "busy"), [(False, 0), (True, 1)])
def test_a_call_that_is_cut_short_returns_its_slot(world: World, is_sent: bool, busy: int) -> None:
    turn = Turn(world.client(60))
    turn.take(SUBMIT)
    if is_sent:
        turn.has_sent = True

    turn.close()
    turn.close()

    assert world.is_empty
    assert len(world.quota.returned) == busy


def test_a_call_that_is_cut_short_while_it_waits_leaves_the_queue(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Turn(world.client(1)).take(GET)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("plaud_provider.quota.turns.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt), closing(Turn(world.client(1))) as turn:
        turn.take(GET)

    assert world.quota.waiting == {}
    assert len(world.quota.out) == 1


def test_a_long_wait_is_told_once_a_minute(world: World, caplog: pytest.LogCaptureFixture) -> None:
    quota = world.client(1)
    with caplog.at_level(logging.INFO), closing(Turn(quota)) as turn:
        for _ in range(4):
            turn.take(GET)
            turn.give_back(ReturnSlot())

    assert len(caplog.records) == 3
    assert "client client-7 may send 1 requests a minute" in caplog.records[0].getMessage()


def test_a_wait_of_a_moment_is_not_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    quota = world.client(1)
    turn = Turn(quota)
    turn.take(GET)
    turn.give_back(ReturnSlot())
    world.now += 57
    with caplog.at_level(logging.INFO):
        turn.take(GET)

    assert caplog.records == []


def test_a_correction_is_told_with_what_to_do(world: World, caplog: pytest.LogCaptureFixture) -> None:
    quota = world.client(60)
    with closing(Turn(quota)) as turn:
        turn.take(GET)
        turn.give_back(ReturnSlot(refused_for=20.0))

    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "quota of 60 a minute" in record.getMessage()
    assert "there are 30 a minute" in record.getMessage()
    assert "requests_per_minute" in record.getMessage()
    assert "budget_conn_id" in record.getMessage()


async def answered_call(turns: AsyncClientQuota) -> None:
    with closing(turns.turn()) as turn:
        await turn.take(GET)
        turn.has_sent = True
        await turn.give_back(ReturnSlot())


async def test_an_asynchronous_call_waits_until_there_is_room(world: World) -> None:
    turns = AsyncClientQuota(world.client(1))
    began = world.now
    for _ in range(3):
        await answered_call(turns)
        await turns.aclose()

    assert world.now - began == pytest.approx(120, abs=0.1)


async def test_calls_that_follow_each_other_ask_the_store_once_each(world: World) -> None:
    turns = AsyncClientQuota(world.client(60))
    for _ in range(20):
        await answered_call(turns)
    await turns.aclose()

    assert world.updates == 21
    assert world.is_empty
    assert sum(returned.slots for returned in world.quota.returned) == 20


async def test_a_slot_that_no_call_follows_is_returned_a_moment_later(world: World) -> None:
    turns = AsyncClientQuota(world.client(60))
    with closing(turns.turn()) as turn:
        await turn.take(GET)
        await turn.give_back(UNUSED)

    await reached(lambda: world.is_empty)


async def test_a_slot_that_is_returned_late_is_busy_for_no_longer(world: World) -> None:
    turns = AsyncClientQuota(world.client(60))
    await answered_call(turns)
    answered_at = world.now
    world.now += 7
    await turns.aclose()

    [slot] = world.quota.returned
    assert slot.free_at == answered_at + 60


async def test_only_the_first_of_each_kind_looks_at_the_store() -> None:
    """Fifty triggers of one process, each with a hook of its own."""
    store = MemoryStore()

    def turns() -> AsyncClientQuota:
        return AsyncClientQuota(ClientQuota(store, Rate(1.0), client_id="c", log=logging.getLogger("test")))

    await turns().turn().take(GET)
    calls = [
        asyncio.create_task(turns().turn().take(operation)) for _ in range(50) for operation in (GET, SUBMIT)
    ]
    await reached(lambda: store.update(lambda quota, now: len(quota.waiting)) == 2)
    for _ in range(100):
        await asyncio.sleep(0)

    waiting = store.update(lambda quota, now: list(quota.waiting.values()))
    assert sorted(waiter.is_submit for waiter in waiting) == [False, True]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_in_a_process_results_come_before_submits_and_in_order(world: World) -> None:
    world.is_frozen = True
    turns = AsyncClientQuota(world.client(1))
    first = turns.turn()
    await first.take(GET)
    done: list[str] = []

    async def call(name: str, operation: Operation) -> None:
        with closing(turns.turn()) as turn:
            await turn.take(operation)
            done.append(name)
            await turn.give_back(UNUSED)

    names = ["submit 1", "submit 2", "result 1", "result 2", "result 3"]
    calls = [asyncio.create_task(call(name, SUBMIT if "submit" in name else GET)) for name in names]
    await reached(lambda: len(world.quota.waiting) == 2)
    await first.give_back(UNUSED)
    await asyncio.gather(*calls)

    assert done == ["result 1", "result 2", "result 3", "submit 1", "submit 2"]


async def test_a_cancelled_call_that_waits_leaves_the_queue() -> None:
    store = MemoryStore()
    turns = AsyncClientQuota(ClientQuota(store, Rate(1.0), client_id="c", log=logging.getLogger("test")))
    await turns.turn().take(GET)

    async def call() -> None:
        with closing(turns.turn()) as turn:
            await turn.take(GET)

    waiting = [asyncio.create_task(call()) for _ in range(3)]
    await reached(lambda: store.update(lambda quota, now: len(quota.waiting)) == 1)
    for task in waiting:
        task.cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    await turns.aclose()

    assert {type(error) for error in ended} == {asyncio.CancelledError}
    assert store.update(lambda quota, now: (len(quota.waiting), len(quota.out))) == (0, 1)


async def test_the_place_of_a_cancelled_call_is_left_to_those_behind_it(world: World) -> None:
    """They have waited for longer than another process that came after the first of them."""
    world.is_frozen = True
    client = world.client(1)
    turns = AsyncClientQuota(client)
    await turns.turn().take(GET)

    async def call() -> None:
        with closing(turns.turn()) as turn:
            await turn.take(GET)

    head, behind = (asyncio.create_task(call()) for _ in range(2))
    await reached(lambda: len(world.quota.waiting) == 1)
    [place] = world.quota.waiting
    client.take("another process", GET)

    head.cancel()
    await asyncio.gather(head, return_exceptions=True)
    updates = world.updates
    await reached(lambda: world.updates > updates + 5)

    assert list(world.quota.waiting) == [place, "another process"]
    behind.cancel()
    await asyncio.gather(behind, return_exceptions=True)
    await turns.aclose()


async def test_a_refusal_is_told_to_all_even_if_its_call_is_cancelled(world: World) -> None:
    """Also where no thread was free to do so yet."""
    turns = AsyncClientQuota(world.client(60))
    turn = turns.turn()
    await turn.take(GET)
    loop, go_on = asyncio.get_running_loop(), threading.Event()
    with ThreadPoolExecutor(1) as only_thread:
        loop.set_default_executor(only_thread)
        busy = loop.run_in_executor(None, go_on.wait, 20)
        giving_back = asyncio.create_task(turn.give_back(ReturnSlot(refused_for=30.0)))
        for _ in range(3):
            await asyncio.sleep(0)
        giving_back.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving_back
        go_on.set()
        await turns.aclose()
        await busy

    assert world.is_empty
    assert world.quota.paused_until == world.now + 30.0


async def test_a_call_that_is_cancelled_while_it_is_granted_a_slot_returns_it(world: World) -> None:
    """The thread that asks cannot be stopped, and what it gets would be lost."""
    turns = AsyncClientQuota(world.client(60))
    asked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        go_on.wait(20)

    world.before_update = hold

    async def call() -> None:
        with closing(turns.turn()) as turn:
            await turn.take(GET)

    task = asyncio.create_task(call())
    await asyncio.to_thread(asked.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await turns.aclose()

    assert world.is_empty
    assert world.quota.returned == []


@pytest.mark.parametrize(("is_sent", "busy"), [(False, 0), (True, 1)])
async def test_a_call_that_is_cancelled_with_a_slot_returns_it(
    world: World, is_sent: bool, busy: int
) -> None:
    turns = AsyncClientQuota(world.client(60))
    turn = turns.turn()
    await turn.take(SUBMIT)
    if is_sent:
        turn.has_sent = True

    turn.close()
    turn.close()
    await turns.aclose()

    assert world.is_empty
    assert len(world.quota.returned) == busy


async def test_an_answer_in_hand_is_not_lost_while_its_slot_is_returned(world: World) -> None:
    """It may be that of a submit, which is paid for: nothing is waited for that could be cancelled."""
    turns = AsyncClientQuota(world.client(60))
    go_on = threading.Event()
    turn = turns.turn()
    await turn.take(SUBMIT)
    world.before_update = lambda: go_on.wait(20) and None  # type: ignore[assignment]

    giving_back = turn.give_back(ReturnSlot())
    with pytest.raises(StopIteration):
        giving_back.send(None)

    go_on.set()
    await turns.aclose()
    assert world.is_empty


async def test_after_a_refusal_the_pause_has_begun_before_the_call_goes_on(world: World) -> None:
    turns = AsyncClientQuota(world.client(60))
    turn = turns.turn()
    await turn.take(GET)
    await turn.give_back(ReturnSlot(refused_for=30.0))

    assert world.quota.paused_until == world.now + 30.0


async def test_what_passed_right_before_a_refusal_counts_for_what_plaud_allows(world: World) -> None:
    turns = AsyncClientQuota(world.client(60))
    passed = [turns.turn() for _ in range(40)]
    refused = turns.turn()
    for turn in (*passed, refused):
        await turn.take(GET)
        turn.has_sent = True
    for turn in passed:
        await turn.give_back(ReturnSlot())
    await refused.give_back(ReturnSlot(refused_for=1.0))

    assert world.quota.lowered_limit == 40


def test_each_event_loop_has_a_queue_of_its_own(world: World) -> None:
    async def call() -> None:
        turns = AsyncClientQuota(world.client(1))
        with closing(turns.turn()) as turn:
            waiting = asyncio.create_task(turns.turn().take(GET))
            await turn.take(GET)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await turns.aclose()

    for _ in range(2):
        asyncio.run(call())

    assert world.quota.out == {}
