"""Transcriptions that land, and what the ledger tells and learns."""

from __future__ import annotations

from datetime import timedelta

import pytest

from plaud_provider.api.models import Status
from plaud_provider.exceptions import PlaudWarehouseError
from plaud_provider.ledger.ledger import Ledger, State
from tests.unit.ledger.ledgers import NOW, OWNER, bring, counts, entry, ledger_in, recording, state
from tests.unit.warehouse.warehouses import Warehouse, connected, landing


@pytest.fixture(params=["same database", "another database"])
def ledger(
    request: pytest.FixtureRequest,
    warehouse: Warehouse,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Ledger:
    if request.param == "same database":
        return ledger_in(warehouse)
    return ledger_in(connected("sqlite", tmp_path_factory.mktemp("another"), monkeypatch, conn_id="another"))


def test_what_lands_is_marked(warehouse: Warehouse, ledger: Ledger) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    for key in ("good", "bad", "not_landed"):
        bring(ledger, State.PROCESSING, key=key)

    landed = writer.replace(
        [landing("txn_good"), landing("txn_bad", status=Status.FAILED, error="NO_SPEECH: silence")], ledger
    )

    assert landed == (2, 2, 0)
    assert {key: known.state for key, known in ledger.entries(["good", "bad", "not_landed"]).items()} == {
        "good": State.LANDED,
        "bad": State.FAILED,
        "not_landed": State.PROCESSING,
    }
    assert entry(ledger, "bad").error == "NO_SPEECH: silence"
    assert entry(ledger, "good").finished_at == NOW


def test_row_has_what_only_the_ledger_knows(warehouse: Warehouse, ledger: Ledger) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    bring(ledger, State.SUBMITTING)
    submitted_at = NOW + timedelta(seconds=5)
    ledger.processing(recording(), OWNER, "txn_1", submitted_at=submitted_at)

    writer.replace([landing("txn_1", audio_uri=None), landing("txn_stranger", audio_uri=None)], ledger)

    rows = warehouse.rows("select audio_uri, submitted_at from plaud_transcripts order by transcription_id")
    assert [uri for uri, _ in rows] == ["s3://calls/key_1.wav", None]
    written = warehouse.rows(
        "select count(*) from plaud_transcripts where submitted_at between "
        f"'{submitted_at - timedelta(milliseconds=1)}' and '{submitted_at + timedelta(milliseconds=1)}'"
    )
    assert written == [(1,)]


def test_what_the_landing_says_outranks_the_ledger(warehouse: Warehouse, ledger: Ledger) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    bring(ledger, State.PROCESSING)

    writer.replace([landing("txn_key_1", audio_uri="s3://calls/other.wav")], ledger)

    assert warehouse.rows("select audio_uri from plaud_transcripts") == [("s3://calls/other.wav",)]


def test_id_of_another_region_is_another_recording(warehouse: Warehouse, ledger: Ledger) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    bring(ledger, State.PROCESSING)

    writer.replace([landing("txn_key_1", region="eu", audio_uri=None)], ledger)

    assert state(ledger) is State.PROCESSING
    assert warehouse.rows("select audio_uri from plaud_transcripts") == [(None,)]


def test_landing_again_changes_nothing_in_the_ledger(warehouse: Warehouse, ledger: Ledger) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    bring(ledger, State.PROCESSING)
    writer.replace([landing("txn_key_1")], ledger)
    before = entry(ledger)

    writer.replace([landing("txn_key_1")], ledger)

    assert entry(ledger) == before


def test_refused_landing_leaves_the_ledger_as_it_was(warehouse: Warehouse, ledger: Ledger) -> None:
    columns = warehouse.columns("plaud_segments")
    options = "default charset utf8mb4" if warehouse.kind == "mysql" else ""
    warehouse.run(f"create table plaud_segments ({columns}, check (text <> 'Sentence 1.')) {options}")
    writer = warehouse.writer()
    writer.ensure_tables()
    bring(ledger, State.PROCESSING)

    with pytest.raises(PlaudWarehouseError, match="rolled back"):
        writer.replace([landing("txn_key_1")], ledger)

    assert state(ledger) is State.PROCESSING


def test_ledger_that_refuses_keeps_rows_out_of_its_own_database(warehouse: Warehouse) -> None:
    ledger = ledger_in(warehouse)
    writer = warehouse.writer()
    writer.ensure_tables()
    bring(ledger, State.PROCESSING)
    warehouse.run("drop table plaud_submissions")

    with pytest.raises(PlaudWarehouseError, match="did not take 1 transcription"):
        writer.replace([landing("txn_key_1")], ledger)

    assert warehouse.content() == ([], [])


def test_many_land_with_their_ledger(warehouse: Warehouse, ledger: Ledger) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    keys = [f"key_{number:03}" for number in range(40)]
    ledger.claim([recording(key) for key in keys], OWNER)
    for key in keys:
        ledger.submitting(key, OWNER)
        ledger.processing(recording(key), OWNER, f"txn_{key}", submitted_at=NOW)

    writer.replace([landing(f"txn_{key}", segments=1) for key in keys], ledger)

    assert counts(ledger) == {State.LANDED: 40}
