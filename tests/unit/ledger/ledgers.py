"""Ledgers with a clock that tests turn, and what is put into them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from plaud_provider.database.database import open_database
from plaud_provider.ledger.ledger import Entry, Ledger, Owner, Recording, State
from plaud_provider.ledger.summary import count_states
from tests.unit.warehouse.warehouses import Warehouse

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
OWNER = Owner("archive", "manual__1", "submit", 4, 1)
#: The next try of the same task instance.
NEXT_TRY = Owner("archive", "manual__1", "submit", 4, 2)
#: Another task instance of the same run.
NEIGHBOUR = Owner("archive", "manual__1", "submit", 5, 1)
#: Another run.
STRANGER = Owner("daily", "scheduled__2", "submit", 0, 1)


@dataclass
class Clock:
    now: datetime = field(default=NOW)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **parts: float) -> None:
        self.now += timedelta(**parts)


def ledger_in(warehouse: Warehouse, clock: Clock | None = None) -> Ledger:
    """Return a ledger whose table is there."""
    database = open_database(warehouse.conn_id, role="ledger", parameter="ledger_conn_id")
    ledger = Ledger(database, now=clock or Clock())
    ledger.ensure_table()
    return ledger


def counts(ledger: Ledger) -> dict[State, int]:
    """Return how many recordings are in each state, the empty ones left out."""
    return {one.state: one.recordings for one in count_states(ledger.database) or ()}


def recording(key: str = "key_1", **values: Any) -> Recording:
    told: dict[str, Any] = {
        "audio_uri": f"s3://calls/{key}.wav",
        "region": "us",
        "client_id": "client",
        "duration_seconds": 360.0,
    }
    return Recording(key, **told | values)


def entry(ledger: Ledger, key: str = "key_1") -> Entry:
    return ledger.entries([key])[key]


def state(ledger: Ledger, key: str = "key_1") -> State:
    return entry(ledger, key).state


def bring(ledger: Ledger, to: State, *, key: str = "key_1", owner: Owner = OWNER) -> None:
    """Bring a recording that nobody has claimed to a state; its transcription, if any, is ``txn_<key>``."""
    ledger.claim([recording(key)], owner)
    if to is State.CLAIMED:
        return
    assert ledger.submitting(key, owner)
    if to is State.SUBMITTING:
        return
    if to is State.UNKNOWN:
        assert ledger.unknown(key, owner, "the answer was lost")
        return
    ledger.processing(recording(key), owner, f"txn_{key}", submitted_at=NOW)
    if to is State.LANDED:
        ledger.landed([f"txn_{key}"], region="us")
    elif to is State.FAILED:
        ledger.failed({f"txn_{key}": "no speech"}, region="us")
    elif to is State.EXPIRED:
        ledger.expired({f"txn_{key}": "not known any more"}, region="us")
