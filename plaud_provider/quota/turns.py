"""
How a call takes its turn: it waits for a slot of the client's quota, and returns it.

:class:`ClientQuota` asks the store; :class:`Turn` waits by sleeping, :class:`AsyncTurn` without blocking an
event loop. Of an event loop only one result and one submit at a time ask the store: the calls behind them
queue in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

from plaud_provider.api.effects import Operation, ReturnSlot, TrialDue
from plaud_provider.exceptions import PlaudSubmitsPausedError
from plaud_provider.quota.breaker import Admission
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.stores import Change, QuotaStore

T = TypeVar("T")

#: Seconds that a caller may take, between taking a slot and the POST, to note that a submit is being sent.
#: Whoever takes longer has to take another slot.
NOTE_SECONDS = 60.0
#: Seconds after which a wait is logged, and seconds between two such lines.
NOTICE_AFTER = 5.0
NOTICE_EVERY = 60.0
#: Seconds for which a slot to be returned is kept back. If another call takes a slot meanwhile, both happen
#: in one change of the store: calls that follow each other closely cost one each, not two.
RETURN_AFTER = 0.05


class _Return(NamedTuple):
    """
    A slot to be returned.

    :param at: When its request was answered, by :func:`time.monotonic`.
    """

    ticket: str
    returned: ReturnSlot
    at: float


class _Line:
    """
    The results, or the submits, of one client that wait in one event loop.

    They share one place in the client's queue. The call that has the lock asks the store, the others wait for
    the lock, first come, first served.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.place = uuid4().hex
        self.calls = 0


_Lines = defaultdict[tuple[QuotaStore, Operation], _Line]
_LINES: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lines] = WeakKeyDictionary()


class ClientQuota:
    """
    A client's quota as one hook uses it.

    :param store: Where it is kept.
    :param rate: What the hook's connection says.
    :param client_id: Plaud client id, for the log.
    :param log: The hook's log.
    """

    def __init__(self, store: QuotaStore, rate: Rate, *, client_id: str, log: Any) -> None:
        self.store = store
        self._rate = rate
        self._client_id = client_id
        self._log = log
        self._next_notice = 0.0

    def take(
        self,
        ticket: str,
        operation: Operation,
        *,
        call: str | None = None,
        place: str | None = None,
        calls: int = 1,
        returns: Sequence[_Return] = (),
    ) -> float:
        """
        Return slots, then take one; see :meth:`.rule.Quota.take`.

        :param returns: Slots to return first, in the same change of the store.
        :param call: Name of the call that the ticket is for; by default the ticket.
        :return: 0, or the seconds after which to ask again.
        :raises PlaudSubmitsPausedError: for a submit, while the circuit breaker is open.
        :raises TrialDue: for one that is to find out whether Plaud answers again; it has taken no slot yet.
        """
        rate = self._rate

        def take(quota: Quota, now: float) -> tuple[float, Admission]:
            admission = Admission()
            if operation is Operation.SUBMIT:
                admission = quota.breaker.admit(call or ticket, now=now, minute=rate.minute)
            if admission != Admission():
                return 0.0, admission
            pause = quota.take(ticket, operation, now=now, rate=rate, place=place, calls=calls)
            return pause, admission

        pause, (paused, looks_first) = self._update(take, returns)
        if looks_first:
            raise TrialDue
        if paused > 0:
            raise PlaudSubmitsPausedError(
                f"Plaud left the last submits of client {self._client_id} without an answer that says what "
                "became of them. Each of them may be paid for, so nobody submits until one succeeds; the "
                f"next may try in {paused:.0f} s. Nothing was sent from here; a retry goes on."
            )
        return pause

    def give_back_late(self, returns: Sequence[_Return]) -> None:
        """Return slots of requests that Plaud has not refused."""
        self._update(lambda quota, now: None, returns)

    def give_back(
        self,
        ticket: str,
        returned: ReturnSlot,
        *,
        place: str | None = None,
        returns: Sequence[_Return] = (),
    ) -> None:
        """
        Return slots, then one more, or leave the queue.

        :param ticket: The slot that was taken, or asked for.
        :param returned: What became of its request.
        :param place: The place in the queue to give up; by default that of the ticket.
        :param returns: Slots to return before.
        """
        rate = self._rate

        def give_back(quota: Quota, now: float) -> float | None:
            self._report(quota, returned, now)
            return quota.give_back(
                ticket,
                now=now,
                rate=rate,
                sent=returned.sent,
                refused_for=returned.refused_for,
                place=place,
            )

        limit = self._update(give_back, returns)
        if limit is not None:
            self._log.warning(
                "Plaud refused a request of client %s with 429, within its quota of %g a minute. From now "
                "on there are %g a minute for everything that shares the quota; after two minutes without a "
                "refusal (up to ten if that turns out to be too many again) it rises to the figure. Correct "
                "requests_per_minute in the connection; if other hosts use the client, let them share the "
                "quota (budget_conn_id).",
                self._client_id,
                rate.requests_per_minute,
                round(limit, 1),
            )

    def spare(self) -> float:
        """Return how many requests a minute the quota has to spare."""
        rate = self._rate
        return self.store.update(lambda quota, now: quota.spare(now=now, rate=rate))

    def _update(self, change: Change[T], returns: Sequence[_Return]) -> T:
        def with_returns(quota: Quota, now: float) -> T:
            # These first: a refusal lowers the limit to the number of requests that have passed.
            for one in returns:
                ago = time.monotonic() - one.at
                quota.give_back(one.ticket, now=now, rate=self._rate, sent=one.returned.sent, ago=ago)
                self._report(quota, one.returned, now)
            return change(quota, now)

        return self.store.update(with_returns)

    def _report(self, quota: Quota, returned: ReturnSlot, now: float) -> None:
        if returned.is_answered is not None:
            quota.breaker.report(is_answered=returned.is_answered, now=now, minute=self._rate.minute)

    def note_wait(self, seconds: float) -> None:
        """Log that a call waits, if it does so for long and that was not logged a moment ago."""
        now = time.monotonic()
        if seconds >= NOTICE_AFTER and now >= self._next_notice:
            self._next_notice = now + NOTICE_EVERY
            self._log.info(
                "Waiting for a turn: client %s may send %g requests a minute, which everything that uses it "
                "shares. Results come before submits.",
                self._client_id,
                self._rate.requests_per_minute,
            )


class Turn:
    """The turns of one call, one after the other. Closing it returns a slot that the call still has."""

    def __init__(self, quota: ClientQuota) -> None:
        self._quota = quota
        self._call = uuid4().hex
        self._ticket: str | None = None
        #: Whether the request has left: set by the one who sends it.
        self.has_sent = False

    def take(self, operation: Operation) -> None:
        """Wait for a slot, however long it takes."""
        self._ticket, self.has_sent = uuid4().hex, False
        began = time.monotonic()
        while (pause := self._quota.take(self._ticket, operation, call=self._call)) > 0:
            self._quota.note_wait(time.monotonic() - began + pause)
            time.sleep(pause)

    def give_back(self, returned: ReturnSlot) -> None:
        """Return the slot."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._quota.give_back(ticket, returned)

    def close(self) -> None:
        """Return the slot of a call that was cut short."""
        self.give_back(ReturnSlot(sent=self.has_sent))


class AsyncClientQuota:
    """A client's quota as one asynchronous hook uses it: it returns slots in the background."""

    def __init__(self, quota: ClientQuota) -> None:
        self.quota = quota
        self._returns: list[_Return] = []
        self._timer: asyncio.TimerHandle | None = None
        self._returning: set[asyncio.Task[None]] = set()

    def turn(self) -> AsyncTurn:
        """Return the turns of one more call."""
        return AsyncTurn(self)

    async def spare(self) -> float:
        """Return how many requests a minute the quota has to spare."""
        return await asyncio.to_thread(self.quota.spare)

    def return_soon(self, ticket: str, returned: ReturnSlot) -> None:
        """Return a slot along with the next one that is taken, or else in a moment."""
        self._returns.append(_Return(ticket, returned, time.monotonic()))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RETURN_AFTER, self._return_now)

    def collect(self) -> list[_Return]:
        """Hand over the slots that are still to be returned."""
        returns, self._returns = self._returns, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return returns

    def _return_now(self) -> None:
        if returns := self.collect():
            self.in_background(asyncio.to_thread(self.quota.give_back_late, returns))

    def in_background(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Do what returns slots in a task of its own: it goes on when the call is cancelled."""
        task = asyncio.create_task(work)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)
        return task

    async def aclose(self) -> None:
        """Wait until all slots are returned."""
        self._return_now()
        await asyncio.gather(*self._returning)


class AsyncTurn:
    """The turns of one asynchronous call, as :class:`Turn` has them."""

    def __init__(self, hook_quota: AsyncClientQuota) -> None:
        self._quota = hook_quota.quota
        self._hook_quota = hook_quota
        self._call = uuid4().hex
        self._ticket: str | None = None
        #: Whether the request has left: set by the one who sends it.
        self.has_sent = False
        self._line: _Line | None = None
        self._asking: asyncio.Future[float] | None = None

    async def take(self, operation: Operation) -> None:
        """Wait for a slot, however long it takes."""
        began = time.monotonic()
        line = _line(self._quota.store, operation)
        line.calls += 1
        try:
            async with line.lock:
                self._ticket, self.has_sent, self._line = uuid4().hex, False, line
                while (pause := await self._try(self._ticket, operation, line)) > 0:
                    self._quota.note_wait(time.monotonic() - began + pause)
                    await asyncio.sleep(pause)
                self._line = None
        finally:
            line.calls -= 1

    async def _try(self, ticket: str, operation: Operation, line: _Line) -> float:
        # The thread goes on when the call is cancelled, and may take the slot: _undo waits for it.
        self._asking = asyncio.ensure_future(
            asyncio.to_thread(
                self._quota.take,
                ticket,
                operation,
                call=self._call,
                place=line.place,
                calls=line.calls,
                returns=self._hook_quota.collect(),
            )
        )
        return await asyncio.shield(self._asking)

    async def give_back(self, returned: ReturnSlot) -> None:
        """
        Return the slot.

        Waits until it is returned only if Plaud has refused the request. Any other answer may be paid for,
        and would be lost if the call were cancelled while it waits here.
        """
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            return
        if returned.refused_for is None:
            self._hook_quota.return_soon(ticket, returned)
        else:
            work = asyncio.to_thread(
                self._quota.give_back, ticket, returned, returns=self._hook_quota.collect()
            )
            await asyncio.shield(self._hook_quota.in_background(work))

    def close(self) -> None:
        """Return the slot of a call that was cut short, or its place in the queue."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._hook_quota.in_background(self._undo(ticket))

    async def _undo(self, ticket: str) -> None:
        if self._asking is not None:
            with suppress(Exception):
                await self._asking
        # While others of this event loop wait, the place stays theirs.
        place = self._line.place if self._line is not None and not self._line.calls else None
        await asyncio.to_thread(self._quota.give_back, ticket, ReturnSlot(sent=self.has_sent), place=place)


def _line(store: QuotaStore, operation: Operation) -> _Line:
    """Return where results, or submits, of this event loop wait."""
    lines = _LINES.setdefault(asyncio.get_running_loop(), defaultdict(_Line))
    return lines[store, operation]
