"""Runs of the DAGs for archives, in one process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.emulator.server import EmulatorServer
from tests.dags.conftest import RunDag, states
from tests.dags.test_dags import Warehouse, metadata
from tests.dags.test_dags import quick_plaud as quick_plaud
from tests.dags.test_dags import warehouse as warehouse
from tests.integration.archive import BAD_NAMES, serving, write_bad, write_recordings

pytestmark = pytest.mark.timeout(180, method="thread")

GOOD = 5


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive with a folder for a day, good and bad recordings in it."""
    root = tmp_path / "calls"
    write_recordings(root / "2024-05-01", GOOD)
    write_bad(root / "2024-05-01")
    monkeypatch.setenv("AIRFLOW_VAR_PLAUD_RESULTS_PATH", str(tmp_path / "results"))
    with serving(root) as public_url:
        monkeypatch.setenv("AIRFLOW_VAR_PLAUD_PUBLIC_URLS", json.dumps({str(root): public_url}))
        yield root


@pytest.mark.parametrize(
    ("dag_id", "conf"),
    [
        ("plaud_transcribe_archive", {"archive": "{root}"}),
        ("plaud_transcribe_daily", {"root": "{root}", "day": "2024-05-01"}),
    ],
)
def test_an_archive_lands_and_what_is_bad_is_a_row_with_its_reason(
    run_dag: RunDag,
    quick_plaud: EmulatorServer,
    warehouse: Warehouse,
    archive: Path,
    dag_id: str,
    conf: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    conf = {name: value.format(root=archive) for name, value in conf.items()} | {"max_failed": 4}
    run = run_dag(dag_id, conf)
    log = "".join(capfd.readouterr())

    assert run.state == "success", states(run)
    assert quick_plaud.summary()["submits_accepted"] == GOOD
    ledger = warehouse.query("select audio_uri, state, error, transcription_id from plaud_submissions")
    assert Counter(state for _, state, _, _ in ledger) == {"landed": GOOD, "failed": len(BAD_NAMES)}
    assert {Path(uri).name for uri, state, error, _ in ledger if state == "failed" and error} == set(
        BAD_NAMES
    )
    landed = warehouse.query("select transcription_id, audio_uri, submitted_at from plaud_transcripts")
    assert {row[0] for row in landed} == {row[3] for row in ledger if row[1] == "landed"}
    assert all(uri and submitted_at for _, uri, submitted_at in landed)
    [(text,)] = warehouse.query("select text from plaud_transcripts order by audio_uri limit 1")
    for secret in (text[:40], "secret-key-canary"):
        assert [table for table, rows in metadata().items() if secret in rows] == []
        assert secret not in log
