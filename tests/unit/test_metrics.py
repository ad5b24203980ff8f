"""What reaches a StatsD server is what Plaud counted, and what the log says of it."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from airflow.sdk._shared.observability.metrics import statsd_logger
from airflow.sdk.observability import stats

from plaud_provider import metrics
from plaud_provider.api.effects import Operation
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudSubmitOutcomeUnknownError, PlaudWarehouseError
from plaud_provider.ledger.ledger import State
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from tests.unit.ledger.ledgers import OWNER, Clock, bring, ledger_in, recording
from tests.unit.operators.archives import Archive
from tests.unit.operators.conftest import archive as archive
from tests.unit.tasks import TaskStateStore, task_context
from tests.unit.warehouse.warehouses import connected

Counted = Callable[[], dict[str, float]]


def use(factory: Callable[[], object]) -> None:
    """Have Airflow send its numbers elsewhere."""
    if hasattr(stats, "initialize"):
        stats.initialize(factory=factory, export_legacy_names=False)
    else:
        # Airflow 3.2
        stats.Stats.initialize(factory=factory)


@pytest.fixture
def statsd() -> Iterator[Counted]:
    """A StatsD server; returns sums of counters, and the last values of the others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        port = server.getsockname()[1]
        told: list[str] = []

        def backend() -> object:
            import statsd as client

            return statsd_logger.SafeStatsdLogger(client.StatsClient("127.0.0.1", port, prefix="airflow"))

        use(backend)

        def counted() -> dict[str, float]:
            while True:
                try:
                    told.append(server.recv(65536).decode())
                except BlockingIOError:
                    break
            found: Counter[str] = Counter()
            for line in "\n".join(told).splitlines():
                name, value, kind = re.fullmatch(r"airflow\.([^:]+):([-\d.e]+)\|(\w+)", line).groups()
                found[name] = found[name] + float(value) if kind == "c" else float(value)
            return found

        yield counted
        from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger

        use(NoStatsLogger)


def test_an_archive_with_failures_and_retries_agrees_with_what_plaud_counted(
    archive: Archive, statsd: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plaud = archive.plaud
    archive.add(*(f"{n:02}.wav" for n in range(12)), seconds=90)
    archive.add("bad-1.wav", "bad-2.wav", seconds=30)
    (archive.folder / "none.wav").write_bytes(b"not audio")
    archive.list()
    # Plaud says 429 to two, and of one the answer is lost.
    plaud.inject({"match": {"kind": "submit"}, "action": "status", "status": 429, "times": 2})
    plaud.inject({"match": {"kind": "submit", "body_contains": "07.wav"}, "action": "drop_after"})
    archive.submit()
    # A retry, and another run over the same folder: nothing is counted twice.
    archive.submit(try_number=2)
    for name in ("bad-1.wav", "bad-2.wav"):
        plaud.force(str(archive.entries()[name].transcription_id), status="failed", error="no speech")
    plaud.state.clock.advance(3600)
    archive.land()
    archive.land(try_number=2)
    archive.list("again")
    archive.submit("again")
    archive.land("again")

    found, summary = statsd(), plaud.summary()

    states = archive.count_of_states()
    assert summary["submits_accepted"] == 14
    assert (found["plaud.submitted"], found["plaud.unknown"]) == (13, 1)
    assert found["plaud.audio_seconds"] == 11 * 90 + 2 * 30
    answers = [row["status"] for row in plaud.ledger()]
    assert found["plaud.refused.submit"] == answers.count(429) == 2
    assert found["plaud.landed"] == states["landed"]
    assert found["plaud.failed"] == states["failed"] == 3
    for kind in ("submit", "get"):
        assert found[f"plaud.requests.{kind}"] == len(plaud.ledger(kind=kind)) > 0, kind
    assert found["plaud.requests.exchange"] == 1
    assert found["plaud.results"] == 13
    assert (found["plaud.waiting"], found["plaud.oldest_seconds"]) == (0, 0)
    assert "plaud.done_to_landed" in found
    changes = [
        json.loads(record.getMessage().partition(" ")[2])
        for record in caplog.records
        if record.name == "plaud_provider.metrics"
    ]
    told = Counter()
    for change in changes:
        told[change["state"]] += change["recordings"]
    assert {state: told[state] for state in ("processing", "landed", "failed")} == {
        "processing": 13,
        "landed": states["landed"],
        "failed": states["failed"],
    }


def told_by(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the states that log lines told of, in order."""
    return [
        json.loads(record.getMessage().partition(" ")[2])["state"]
        for record in caplog.records
        if record.name == "plaud_provider.metrics"
    ]


def test_a_submit_without_a_ledger_tells_of_its_states_as_well(
    archive: Archive, statsd: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = "https://files.example/calls/{}.mp3?X-Amz-Signature=canary"
    archive.plaud.inject({"match": {"kind": "submit", "body_contains": "lost"}, "action": "drop_after"})

    for name in ("whole", "lost"):
        submit = SubmitTranscriptionOperator(task_id="submit", audio_url=url.format(name))
        with suppress(PlaudSubmitOutcomeUnknownError):
            submit.execute(task_context(TaskStateStore(), task_id="submit"))

    found = statsd()
    assert (found["plaud.submitted"], found["plaud.unknown"]) == (1, 1)
    assert told_by(caplog) == ["submitting", "processing", "submitting", "unknown"]
    assert "canary" not in caplog.text


def test_audio_of_short_recordings_is_not_rounded_away(archive: Archive, statsd: Counted) -> None:
    archive.add(*(f"{n:02}.wav" for n in range(5)), seconds=0.4)
    archive.list()
    archive.submit()

    assert statsd()["plaud.audio_seconds"] == pytest.approx(5 * 0.4)


def test_refusals_are_counted(plaud: EmulatorServer, statsd: Counted) -> None:
    metrics.answered("submit", 429)
    metrics.answered("submit", 200)
    metrics.answered("get", 429)

    assert statsd() == {"plaud.refused.submit": 1, "plaud.refused.get": 1}


def test_what_is_rolled_back_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statsd: Counted
) -> None:
    ledger = ledger_in(connected("sqlite", tmp_path, monkeypatch), Clock())
    bring(ledger, State.PROCESSING)

    def fails(connection: object) -> None:
        ledger.settle({"txn_key_1"}, {}, region="us", connection=connection)
        raise ValueError

    with pytest.raises(PlaudWarehouseError):
        ledger.database.run(fails, failed="Nothing")
    assert "plaud.landed" not in statsd()

    ledger.landed(["txn_key_1"], region="us")
    ledger.landed(["txn_key_1"], region="us")

    assert statsd()["plaud.landed"] == 1


def test_a_lapsed_submit_is_counted_once_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statsd: Counted
) -> None:
    clock = Clock()
    ledger = ledger_in(connected("sqlite", tmp_path, monkeypatch), clock)
    ledger.claim([recording()], OWNER)
    ledger.submitting("key_1", OWNER)
    clock.advance(hours=1)

    ledger.entries(["key_1"])
    ledger.entries(["key_1"])

    assert statsd()["plaud.unknown"] == 1


def test_names_are_such_as_backends_take(statsd: Counted) -> None:
    for operation in Operation:
        metrics.sent(operation.value)

    assert statsd().keys() == {f"plaud.requests.{name_of(operation)}" for operation in Operation}


def test_documentation_and_dashboard_have_every_name_and_no_other() -> None:
    names = {metrics.SUBMITTED, metrics.AUDIO_SECONDS, metrics.RESULTS, metrics.WAITING, metrics.OLDEST}
    names |= {metrics.DONE_TO_LANDED}
    names |= {f"{metrics.STATES}.{state}" for state in metrics.COUNTED}
    for family in (metrics.REQUESTS, metrics.REFUSED):
        names |= {f"{family}.{name_of(operation)}" for operation in Operation}
    docs = Path(__file__).parents[2] / "docs"

    documented: set[str] = set()
    for cell in re.findall(r"^\| (`plaud\.[^|]+) \|", (docs / "lineage.md").read_text(), re.MULTILINE):
        first, *others = re.findall(r"`([\w.]+)`", cell)
        family = first.rpartition(".")[0]
        documented |= {first, *(family + other if other.startswith(".") else other for other in others)}
    dashboard = json.loads((docs / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    assert documented == names
    assert set(re.findall(r"airflow_(plaud_\w+)", " ".join(asked))) == {
        name.replace(".", "_") for name in names
    }


def name_of(operation: Operation) -> str:
    return operation.value.replace(" ", "_")
