"""The ledger in numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from plaud_provider.cli import main
from plaud_provider.ledger.ledger import Owner, State
from plaud_provider.ledger.summary import count_states, print_summary
from plaud_provider.recordings.length import duration
from tests.unit.ledger.ledgers import Clock, ledger_in, recording
from tests.unit.warehouse.conftest import warehouse as warehouse
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse

NOW = datetime(2024, 5, 1, 10, tzinfo=UTC)
ROWS = "select recording_key, state, updated_at from plaud_submissions order by recording_key"
OWNER = Owner("dag", "run", "submit", 0, 1)


def fill(warehouse: Warehouse, now: datetime = NOW) -> None:
    ledger = ledger_in(warehouse, Clock(now))
    ledger.claim([recording(key, duration_seconds=1800.0) for key in "abcd"], OWNER)
    ledger.claim([recording("e", duration_seconds=None)], OWNER)
    for key in "abcd":
        assert ledger.submitting(key, OWNER)
    for key in "ab":
        assert ledger.processing(recording(key), OWNER, f"txn_{key}", submitted_at=now)
    ledger.landed(["txn_a"], region="us")
    ledger.unknown("c", OWNER, "No answer came.")


def test_states_are_counted_with_their_lengths(warehouse: Warehouse) -> None:
    fill(warehouse)
    counts = count_states(warehouse.database)

    assert counts is not None
    # What was being sent when its lease ended is unknown to everybody.
    assert [(one.state, one.recordings, one.seconds, one.unmeasured) for one in counts] == [
        (State.CLAIMED, 1, 0.0, 1),
        (State.PROCESSING, 1, 1800.0, 0),
        (State.LANDED, 1, 1800.0, 0),
        (State.UNKNOWN, 2, 3600.0, 0),
    ]
    assert {one.oldest for one in counts} == {NOW}


def test_looking_changes_nothing(warehouse: Warehouse) -> None:
    assert count_states(warehouse.database) is None
    assert warehouse.tables() == set()
    fill(warehouse)
    before = warehouse.rows("select recording_key, state, updated_at from plaud_submissions order by 1")
    count_states(warehouse.database)

    assert (
        warehouse.rows("select recording_key, state, updated_at from plaud_submissions order by 1") == before
    )


def test_it_is_printed_for_people(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    fill(warehouse)

    assert print_summary(CONN_ID, now=NOW + timedelta(hours=3, minutes=12)) == 0
    said = capsys.readouterr().out
    assert "landed                 1        30 min   2024-05-01 10:00 UTC" in said
    assert "all                    5     2 h 0 min" in said
    assert "processing: 1 are at Plaud, the first of them for 3 h 12 min" in said
    assert "unknown: they may be billed" in said
    assert "The length of 1 is not known" in said


def test_what_is_soon_lost_at_plaud_is_said(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    fill(warehouse)

    assert print_summary(CONN_ID, now=NOW + timedelta(days=4, hours=23)) == 0
    assert "have not landed" not in capsys.readouterr().out
    assert print_summary(CONN_ID, now=NOW + timedelta(days=5)) == 0
    assert "5 or more days ago and have not landed. Plaud keeps results for 7 days" in capsys.readouterr().out


def test_the_command_tells_what_it_cannot_read(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 0
    assert "has no table plaud_submissions yet" in capsys.readouterr().out
    assert main(["status", "--ledger-conn-id", "nonesuch"]) == 1
    assert "there is no Airflow connection 'nonesuch'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (29, "29 s"), (31, "1 min"), (4320, "1 h 12 min"), (3.6e6, "1,000 h 0 min")],
)
def test_a_length_is_told_as_people_say_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words
