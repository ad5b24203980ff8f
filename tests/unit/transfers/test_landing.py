"""What the loader does with answers that were kept, and what it tells the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from plaud_provider.api.retry import RetryPolicy
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudWarehouseError,
)
from plaud_provider.handover.kept_results import ResultStore
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.ledger.ledger import Ledger, State, open_ledger
from plaud_provider.transfers import landing
from plaud_provider.warehouse.writer import WarehouseWriter
from tests.unit.ledger.ledgers import OWNER, entry, recording
from tests.unit.transfers.test_transcription_to_sql import SENTINEL, load, reads, submitted
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse, connected

OTHER_CONN_ID = "books"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def keep(results: Path, *ids: str, region: str = "us") -> None:
    """Keep what Plaud answers, as a sensor does."""
    with PlaudHook() as hook:
        for transcription_id in ids:
            ResultStore(str(results)).save(hook.get_transcription(transcription_id), region)


def kept(results: Path) -> list[Path]:
    return sorted(results.glob("*.json")) if results.exists() else []


def in_ledger(ledger: Ledger, *ids: str, submitted_at: datetime | None = None) -> None:
    """Have the ledger know transcriptions as processing, as recordings ``key_0`` and so on."""
    for n, transcription_id in enumerate(ids):
        key = f"key_{n}"
        ledger.claim([recording(key)], OWNER)
        ledger.submitting(key, OWNER)
        ledger.processing(
            recording(key), OWNER, transcription_id, submitted_at=submitted_at or datetime.now(tz=UTC)
        )


# Kept answers


def test_what_is_kept_is_landed_without_a_call_and_removed(
    plaud: EmulatorServer, warehouse: Warehouse, results: Path
) -> None:
    ids = submitted(plaud, "completed", "failed", "completed")
    keep(results, *ids)
    before = reads(plaud)

    counts = load(ids, results_path=str(results))

    assert counts == {"version": 1, "transcripts": 3, "segments": 4, "failed": 1}
    assert reads(plaud) == before
    assert kept(results) == []


def test_what_is_not_kept_is_asked_for(plaud: EmulatorServer, warehouse: Warehouse, results: Path) -> None:
    ids = submitted(plaud, "completed", "completed")
    keep(results, ids[0])
    before = reads(plaud)

    assert load(ids, results_path=str(results))["transcripts"] == 2
    assert reads(plaud) == before + 1


def test_what_another_region_has_kept_is_not_taken(
    plaud: EmulatorServer, duckdb_warehouse: Warehouse, results: Path
) -> None:
    [only] = submitted(plaud, "completed")
    keep(results, only, region="eu")
    before = reads(plaud)

    assert load(only, results_path=str(results))["transcripts"] == 1
    assert reads(plaud) == before + 1
    assert len(kept(results)) == 1


@pytest.mark.parametrize("keep_raw", [True, "True"])
def test_kept_answers_may_stay(
    plaud: EmulatorServer, duckdb_warehouse: Warehouse, results: Path, keep_raw: Any
) -> None:
    ids = submitted(plaud, "completed", "completed")
    keep(results, *ids)

    load(ids, results_path=str(results), keep_raw=keep_raw)

    assert len(kept(results)) == 2
    assert SENTINEL in kept(results)[0].read_text()


def test_what_could_not_be_landed_stays_for_a_retry(
    plaud: EmulatorServer, duckdb_warehouse: Warehouse, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submitted(plaud, "completed", "completed")
    keep(results, *ids)
    before = reads(plaud)

    def away(*_: Any, **__: Any) -> None:
        raise PlaudWarehouseError("the warehouse is away")

    with monkeypatch.context() as trouble:
        trouble.setattr(WarehouseWriter, "replace", away)
        with pytest.raises(PlaudWarehouseError):
            load(ids, results_path=str(results))
    assert len(kept(results)) == 2

    assert load(ids, results_path=str(results))["transcripts"] == 2
    assert reads(plaud) == before
    assert kept(results) == []


# Each has two segments, and counts as one more itself.
@pytest.mark.parametrize(
    ("bound", "value"), [("SLAB_SEGMENTS", 6), ("SLAB_TRANSCRIPTIONS", 2), ("SLAB_CHARACTERS", None)]
)
def test_what_is_kept_lands_in_bounded_transactions(
    plaud: EmulatorServer,
    duckdb_warehouse: Warehouse,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    value: int | None,
) -> None:
    ids = submitted(plaud, *["completed"] * 5)
    keep(results, *ids)
    if value is None:
        answer = ResultStore(str(results)).load("us", ids[0])
        assert answer is not None
        value = len(answer.raw) + 1
    monkeypatch.setattr(landing, bound, value)
    sizes: list[int] = []
    replace = WarehouseWriter.replace

    def watching(writer: WarehouseWriter, landings: list[Any], **options: Any) -> Any:
        sizes.append(len(landings))
        return replace(writer, landings, **options)

    monkeypatch.setattr(WarehouseWriter, "replace", watching)

    assert load(ids, results_path=str(results))["segments"] == 10
    assert sizes == [2, 2, 1]


def test_what_has_been_read_is_landed_when_plaud_cannot_be_asked_for_the_next(
    plaud: EmulatorServer, warehouse: Warehouse, results: Path
) -> None:
    ids = submitted(plaud, "completed", "completed", "completed")
    keep(results, ids[0])
    match = {"kind": "get", "path_contains": ids[2]}
    plaud.inject({"match": match, "times": 1, "action": "status", "status": 403})

    with pytest.raises(PlaudAccessError):
        load(ids, results_path=str(results))

    landed = warehouse.rows("select transcription_id from plaud_transcripts order by 1")
    assert landed == sorted([(ids[0],), (ids[1],)])


@pytest.mark.parametrize("unset", [None, "", "None"])
def test_the_template_of_an_unset_value_is_no_folder_and_no_ledger(
    plaud: EmulatorServer, warehouse: Warehouse, unset: str | None
) -> None:
    [only] = submitted(plaud, "completed")

    assert load(only, results_path=unset, ledger_conn_id=unset)["transcripts"] == 1
    assert "plaud_submissions" not in warehouse.tables()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"results_path": "results"}, PlaudConfigurationError, "results_path"),
        ({"keep_raw": "perhaps"}, PlaudInputError, "keep_raw: 'perhaps'"),
        ({"ledger_conn_id": "no_such"}, PlaudConfigurationError, r"ledger_conn_id: .*'no_such'"),
    ],
)
def test_a_wrong_argument_is_told_before_plaud_is_asked(
    plaud: EmulatorServer,
    duckdb_warehouse: Warehouse,
    arguments: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        load("txn_1", **arguments)
    assert plaud.ledger() == []


# The ledger


@pytest.mark.parametrize("where", ["the warehouse", "another database"])
def test_the_ledger_learns_what_has_landed(
    plaud: EmulatorServer,
    warehouse: Warehouse,
    where: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conn_id = CONN_ID
    if where == "another database":
        conn_id = connected("sqlite", tmp_path_factory.mktemp("books"), monkeypatch, OTHER_CONN_ID).conn_id
    ids = submitted(plaud, "completed", "failed")
    ledger = open_ledger(conn_id)
    in_ledger(ledger, *ids)

    load(ids, ledger_conn_id=conn_id)

    assert entry(ledger, "key_0").state is State.LANDED
    assert (entry(ledger, "key_1").state, entry(ledger, "key_1").error) == (State.FAILED, "NO_AUDIO: empty")
    rows = warehouse.rows("select transcription_id, audio_uri from plaud_transcripts")
    assert dict(rows) == {ids[0]: "s3://calls/key_0.wav", ids[1]: "s3://calls/key_1.wav"}


def test_what_plaud_does_not_know_any_more_has_expired(
    plaud: EmulatorServer, duckdb_warehouse: Warehouse
) -> None:
    [known] = submitted(plaud, "completed")
    ledger = open_ledger(CONN_ID)
    in_ledger(ledger, known, "txn_gone", submitted_at=datetime.now(tz=UTC) - timedelta(days=8))

    with pytest.raises(PlaudNotFoundError, match="txn_gone"):
        load([known, "txn_gone"], ledger_conn_id=CONN_ID)

    assert entry(ledger, "key_0").state is State.LANDED
    assert entry(ledger, "key_1").state is State.EXPIRED
    assert "does not know" in (entry(ledger, "key_1").error or "")


# Fault row 35
def test_what_plaud_does_not_know_yet_has_not_expired(
    plaud: EmulatorServer, duckdb_warehouse: Warehouse
) -> None:
    ledger = open_ledger(CONN_ID)
    in_ledger(ledger, "txn_new")

    with pytest.raises(PlaudNotFoundError, match="txn_new"):
        load("txn_new", ledger_conn_id=CONN_ID)
    assert entry(ledger, "key_0").state is State.PROCESSING


def test_what_is_still_processing_stays_so(plaud: EmulatorServer, duckdb_warehouse: Warehouse) -> None:
    ids = submitted(plaud, "completed", "processing")
    ledger = open_ledger(CONN_ID)
    in_ledger(ledger, *ids)

    with pytest.raises(Exception, match="has not finished"):
        load(ids, ledger_conn_id=CONN_ID)
    assert (entry(ledger, "key_0").state, entry(ledger, "key_1").state) == (State.LANDED, State.PROCESSING)


# One transcription's trouble


TROUBLES = {
    "malformed": {"action": "html"},
    "of another": {"action": "patch", "patch": {"transcriptionId": "txn_other"}},
    "refused": {"action": "status", "status": 422},
    "broken": {"action": "status", "status": 500},
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_answer_that_cannot_be_used_does_not_keep_the_others_from_landing(
    plaud: EmulatorServer, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(RetryPolicy, "backoff", lambda *_: 0.0)
    ids = submitted(plaud, *["completed"] * 6)
    plaud.inject({"match": {"kind": "get", "path_contains": ids[1]}, "times": None, **TROUBLES[trouble]})

    for _ in range(2):
        with pytest.raises((PlaudResponseError, PlaudRequestError, PlaudServerError)) as told:
            load(ids)
        assert ids[1] in str(told.value), "it names what did not land"
        assert "The other 5 of 6 are landed" in str(told.value)
    landed = warehouse.rows("select transcription_id from plaud_transcripts order by 1")
    assert [known for (known,) in landed] == sorted({*ids} - {ids[1]})


@pytest.mark.parametrize("status", [402, 403])
def test_a_client_that_is_refused_while_it_lands_is_let_in_by_a_retry(
    plaud: EmulatorServer, warehouse: Warehouse, status: int
) -> None:
    ids = submitted(plaud, "completed", "completed")
    plaud.inject({"match": {"kind": "get"}, "times": 2, "action": "status", "status": status})

    with pytest.raises(PlaudError) as told:
        load(ids)

    assert not isinstance(told.value, AirflowFailException), "a bill may be paid before the retry"
    assert load(ids)["transcripts"] == 2


def test_a_plaud_that_is_away_is_not_asked_for_each_of_many(
    plaud: EmulatorServer, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "backoff", lambda *_: 0.0)
    ids = submitted(plaud, *["completed"] * 6)
    plaud.inject({"match": {"kind": "get"}, "times": None, "action": "status", "status": 503})

    with pytest.raises(PlaudServerError):
        load(ids)
    asked = {row["path"].rpartition("/")[2] for row in plaud.ledger(kind="get")}
    assert len(asked) == 3
