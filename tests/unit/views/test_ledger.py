"""The ledger on its page: numbers for who may see them, and changes by who may make them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.api.effects import Operation
from plaud_provider.hooks.connection import PlaudConnection
from plaud_provider.ledger.entry import Owner, Recording, State
from plaud_provider.ledger.ledger import Ledger
from plaud_provider.quota.opening import open_quota
from plaud_provider.quota.turns import Turn
from tests.unit.views.conftest import DAG, OTHER_DAG, RUN, Login
from tests.unit.warehouse.warehouses import Warehouse

OVERVIEW, ROWS, ONE, MARK = (f"/plaud/api/{name}" for name in ("ledger", "recordings", "recording", "mark"))
QUOTA = "/plaud/api/quota"
PAGE = {"x-requested-with": "plaud"}


@pytest.fixture
def ledger(warehouse: Warehouse) -> Ledger:
    """A ledger with an unknown recording of one DAG, and a landed one of each of two."""
    ledger = Ledger(warehouse.database)
    ledger.ensure_table()
    for key, dag_id, state in (("a", DAG, "unknown"), ("b", DAG, "landed"), ("c", OTHER_DAG, "landed")):
        owner = Owner(dag_id, RUN, "submit", -1, 1)
        one = Recording(key, f"s3://calls/{key}.mp3", "us", "client", duration_seconds=1800)
        ledger.claim([one], owner)
        ledger.submitting(key, owner)
        if state == "unknown":
            ledger.unknown(key, owner, "the answer was lost")
        else:
            ledger.processing(
                one, owner, f"txn_{key}", submitted_at=ledger.database.run(ledger._time, failed="")
            )
            ledger.landed([f"txn_{key}"], region="us", target="warehouse_default:plaud_transcripts")
    return ledger


def states(answer: Any) -> dict[str, int]:
    assert answer.status_code == 200, answer.text
    return {one["state"]: one["recordings"] for one in answer.json()["states"]}


@pytest.mark.usefixtures("ledger")
def test_numbers_and_rows_are_of_the_dags_that_a_person_may_read(login: Login) -> None:
    assert states(login("reader").get(OVERVIEW)) == {"landed": 1, "unknown": 1}
    assert states(login("owner").get(OVERVIEW)) == {"landed": 2, "unknown": 1}
    assert states(login("stranger").get(OVERVIEW)) == {}
    assert states(login("reader").get(OVERVIEW, params={"dag_id": OTHER_DAG})) == {}
    assert [row["recording_key"] for row in login("reader").get(ROWS).json()] == ["b", "a"]
    assert login("stranger").get(ROWS).json() == []
    assert [login("reader").get(ONE, params={"key": key}).status_code for key in ("a", "c", "nothing")] == [
        200,
        404,
        404,
    ]


@pytest.mark.usefixtures("ledger")
def test_what_needs_somebody_is_told_with_the_remedy_the_rate_and_the_price(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PLAUD__PRICE_PER_HOUR", "0.28 USD")

    told = login("owner").get(OVERVIEW, params={"state": ""}).json()

    [reason] = told["reasons"]
    assert (reason["state"], reason["reason"], reason["is_billed"]) == (
        "unknown",
        "the answer was lost",
        False,
    )
    assert told["advice"]["unknown"].startswith("they may be billed: look for them in Plaud's console")
    assert (told["ended_per_hour"][-1], told["landed_in_last_hour"]) == ({"landed": 2, "unknown": 1}, 2)
    assert told["hours_left"] == 0
    assert told["price"] == [0.28, "USD"]
    assert told["dag_ids"] == [DAG, OTHER_DAG]


@pytest.mark.usefixtures("ledger")
def test_the_quota_is_shown_as_tasks_have_left_it_and_not_touched(
    login: Login, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv(
        "AIRFLOW_CONN_PLAUD_DEFAULT",
        json.dumps(
            {
                "conn_type": "plaud",
                "login": "client",
                "password": "secret",
                "extra": {"region": "us", "requests_per_minute": 90},
            }
        ),
    )
    assert login("reader").get(QUOTA).json() is None
    settings = PlaudConnection().settings
    quota = open_quota(settings.account, 90, None, exchange_seconds=60, minute=60, log=logging.getLogger())
    for _ in range(3):
        Turn(quota).take(Operation.SUBMIT)

    assert login("reader").get(QUOTA).json() == {
        "used": 3,
        "limit": 90.0,
        "spare": 87,
        "paused_seconds": 0.0,
    }
    assert login("reader").get(QUOTA).json()["used"] == 3
    assert login("stranger").get(QUOTA).json() is None


@pytest.mark.usefixtures("ledger")
def test_a_recording_s_history_says_what_a_person_may_do(login: Login) -> None:
    seen = {name: login(name).get(ONE, params={"key": "a"}).json() for name in ("reader", "owner")}

    assert set(seen["owner"]["times"]) == {"claimed_at", "submitted_at", "finished_at"}
    assert seen["owner"]["owner"]["run_id"] == RUN
    assert [seen[name]["may_mark"] for name in ("reader", "owner")] == [False, True]
    # That DAG is not in Airflow, so that nothing can be started.
    assert seen["owner"]["pay_again"] is None


def test_who_may_marks_a_recording_as_known(ledger: Ledger, login: Login) -> None:
    body = {"recording_key": "a", "transcription_id": " txn_found "}

    answer = login("owner").post(MARK, json=body, headers=PAGE)

    assert answer.json() == {"state": "processing"}
    entry = ledger.entries(["a"])["a"]
    assert (entry.state, entry.transcription_id, entry.error) == (State.PROCESSING, "txn_found", None)
    assert login("owner").post(MARK, json=body, headers=PAGE).status_code == 409


@pytest.mark.parametrize(
    ("name", "headers", "body", "status"),
    [
        ("owner", {}, {}, 403),
        ("owner", {**PAGE, "sec-fetch-site": "cross-site"}, {}, 403),
        ("owner", {**PAGE, "sec-fetch-site": "same-site"}, {}, 403),
        ("reader", PAGE, {}, 403),
        ("stranger", PAGE, {}, 404),
        ("owner", PAGE, {"transcription_id": "a\nb"}, 422),
        ("owner", PAGE, {"transcription_id": "txn_b"}, 409),
        ("owner", PAGE, {"recording_key": "b"}, 409),
    ],
)
def test_nothing_is_changed_by_another_site_by_who_may_not_or_for_no_id(
    ledger: Ledger, login: Login, name: str, headers: dict[str, str], body: dict[str, str], status: int
) -> None:
    before = ledger.entries(["a", "b", "c"])

    sent = {"recording_key": "a", "transcription_id": "txn_found"} | body
    answer = login(name).post(MARK, json=sent, headers=headers)

    assert answer.status_code == status
    assert ledger.entries(["a", "b", "c"]) == before


def test_a_form_of_another_site_changes_nothing(ledger: Ledger, login: Login) -> None:
    answer = login("owner").post(
        MARK, data={"recording_key": "a", "transcription_id": "txn_found"}, headers=PAGE
    )

    assert answer.status_code == 422
    assert ledger.entries(["a"])["a"].state is State.UNKNOWN


def test_where_there_is_no_ledger_none_is_made(warehouse: Warehouse, login: Login) -> None:
    warehouse.run("create table other (a int)")

    assert login("owner").get(OVERVIEW).json() == {"conn_id": "warehouse_default", "exists": False}
    assert warehouse.tables() == {"other"}
