"""The wait of a chunk: what has finished is landed while the rest is waited for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from plaud_provider.api import waiting
from plaud_provider.api.waiting import BACKSTOP, WaitResult
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudArchiveError,
    PlaudAuthenticationError,
    PlaudConfigurationError,
    PlaudInputError,
    PlaudTriggerEventError,
    PlaudWarehouseError,
)
from plaud_provider.ledger.ledger import State
from plaud_provider.operators.chunk import COUNTS_KEY
from plaud_provider.operators.land_recordings import PROBLEMS_KEY, LandRecordingsOperator
from plaud_provider.triggers.transcription import TranscriptionTrigger
from plaud_provider.warehouse.writer import WarehouseWriter
from tests.unit.operators.archives import Archive
from tests.unit.warehouse.warehouses import CONN_ID

NAMES = ("a.wav", "b.wav", "c.wav")
NONE = {"failed": 0, "unknown": 0, "expired": 0, "processing": 0, "not_submitted": 0}
TEXT = "transcript-sentinel-93ab"


@pytest.fixture
def chunk(archive: Archive) -> Archive:
    """An archive of three recordings that are submitted."""
    archive.add(*NAMES, seconds=36)
    archive.list()
    archive.submit()
    return archive


def ids(archive: Archive) -> dict[str, str]:
    return {name: str(entry.transcription_id) for name, entry in archive.entries().items()}


def deferred(archive: Archive, run_id: str = "run", *, try_number: int = 1, **arguments: Any) -> TaskDeferred:
    """Run the wait until it hands over to the triggerer."""
    with pytest.raises(TaskDeferred) as waiting:
        archive.land_task(run_id, **arguments).execute(archive.context("land", run_id, try_number))
    return waiting.value


def trigger_of(waiting: TaskDeferred) -> TranscriptionTrigger:
    assert isinstance(waiting.trigger, TranscriptionTrigger)
    return waiting.trigger


def event(archive: Archive, outcome: str, *pending: str, **told: Any) -> dict[str, Any]:
    """Return an event of the trigger: these are pending, all others are final."""
    known = ids(archive)
    result = WaitResult(
        outcome,  # type: ignore[arg-type]
        total=len(known),
        completed=len(known) - len(pending),
        pending=tuple(known[name] for name in pending),
        **told,
    )
    return result.to_event()


def test_transcripts_become_rows(chunk: Archive) -> None:
    chunk.plaud.advance(601)

    assert chunk.land() == {"total": 3, "landed": 3, **NONE}
    assert chunk.landed() == dict.fromkeys(NAMES, "completed")
    assert chunk.count_of_states() == {"landed": 3}
    assert chunk.kept() == [], "what has landed is not kept"
    assert len(chunk.plaud.ledger(kind="get")) == 3, "one call for each"
    rows = chunk.warehouse.rows("select dag_id, run_id, audio_uri, submitted_at from plaud_transcripts")
    assert {row[:2] for row in rows} == {("dag", "run")}
    assert all(uri.startswith(str(chunk.folder)) and submitted_at for _, _, uri, submitted_at in rows)


def test_failed_transcriptions_are_rows_with_plauds_reason(chunk: Archive) -> None:
    chunk.plaud.advance(601)
    chunk.plaud.force(ids(chunk)["b.wav"], status="failed", error="nothing was said")

    chunk.land()

    assert chunk.landed() == {"a.wav": "completed", "b.wav": "failed", "c.wav": "completed"}
    entry = chunk.entries()["b.wav"]
    assert (entry.state, entry.error) == (State.FAILED, "nothing was said")


def test_the_trigger_gets_what_is_known_of_each_and_no_text(chunk: Archive) -> None:
    waiting = deferred(chunk, timeout=3600, poke_interval=timedelta(seconds=7), partial_count=50)
    _, arguments = trigger_of(waiting).serialize()

    assert sorted(arguments["transcription_ids"]) == sorted(ids(chunk).values())
    assert arguments["submitted_at"] == sorted(arguments["submitted_at"]), "in the order of submission"
    assert arguments["accepted_at"] == pytest.approx(arguments["submitted_at"], abs=5), "by Plaud's clock"
    assert arguments["audio_seconds"] == pytest.approx([36] * 3, abs=0.1)
    assert arguments["end_time"] - arguments["started_at"] == 3600
    assert (arguments["poke_interval"], arguments["partial_count"]) == (7, 50)
    assert arguments["results_path"] == str(chunk.results)
    assert waiting.timeout is not None
    assert waiting.timeout.total_seconds() > 3600, "Airflow's own timeout comes later"
    assert waiting.timeout <= timedelta(seconds=3600) + BACKSTOP
    stored = json.dumps([arguments, waiting.kwargs])
    assert ".wav" not in stored
    assert "secret-key-canary" not in stored


# Events


def test_a_partial_event_lands_what_is_there_and_waits_on_with_the_same_deadline(chunk: Archive) -> None:
    first = deferred(chunk)
    chunk.plaud.force(ids(chunk)["a.wav"], status="completed", text=TEXT)
    chunk.keep("a.wav")
    asked = len(chunk.plaud.ledger(kind="get"))

    with pytest.raises(TaskDeferred) as again:
        chunk.resumed_land(first, event(chunk, "partial", "b.wav", "c.wav"))

    assert chunk.landed() == {"a.wav": "completed"}
    assert len(chunk.plaud.ledger(kind="get")) == asked, "what is kept is not asked for"
    then, now = trigger_of(first), trigger_of(again.value)
    assert sorted(now.transcription_ids) == sorted(ids(chunk)[name] for name in ("b.wav", "c.wav"))
    assert (now.end_time, now.started_at) == (then.end_time, then.started_at)
    assert again.value.kwargs == first.kwargs


def test_partial_events_land_everything_in_the_end(chunk: Archive) -> None:
    chunk.plaud.advance(601)

    assert chunk.land(partial_count=1)["landed"] == 3
    assert chunk.count_of_states() == {"landed": 3}
    assert len(chunk.plaud.ledger(kind="get")) == 3, "a look that is under way is not made again"


def test_at_the_deadline_what_is_final_is_landed_and_the_rest_is_told(
    chunk: Archive, capfd: pytest.CaptureFixture[str]
) -> None:
    chunk.plaud.force(ids(chunk)["a.wav"], status="completed", text=TEXT)

    with pytest.raises(PlaudArchiveError, match=r"2 recordings are neither.*1 landed, 2 processing") as told:
        chunk.land(timeout=3)

    assert chunk.landed() == {"a.wav": "completed"}
    assert chunk.count_of_states() == {"landed": 1, "processing": 2}
    assert TEXT not in "".join(capfd.readouterr()) + str(told.value)


def test_what_was_not_final_at_the_deadline_is_waited_for_by_another_run(chunk: Archive) -> None:
    with pytest.raises(PlaudArchiveError):
        chunk.land(timeout=0.2)
    chunk.list("second")
    assert chunk.submit("second")["waiting"] == 3
    chunk.plaud.advance(601)

    assert chunk.land("second")["landed"] == 3
    assert chunk.paid() == dict.fromkeys(NAMES, 1)


def test_an_error_lands_what_is_there_and_raises_its_class(chunk: Archive) -> None:
    first = deferred(chunk)
    chunk.plaud.force(ids(chunk)["a.wav"], status="completed", text=TEXT)
    chunk.keep("a.wav")
    broken = event(chunk, "error", "b.wav", "c.wav", error="PlaudAuthenticationError", message="refused")

    with pytest.raises(PlaudAuthenticationError, match="refused") as told:
        chunk.resumed_land(first, broken)
    assert isinstance(told.value, AirflowFailException), "a retry would be refused as well"
    assert chunk.landed() == {"a.wav": "completed"}


def test_what_plaud_does_not_know_any_more_is_expired(chunk: Archive) -> None:
    first = deferred(chunk)
    chunk.plaud.advance(601)
    chunk.keep("a.wav", "c.wav")

    gone = event(chunk, "done", missing=(ids(chunk)["b.wav"],))
    assert chunk.resumed_land(first, gone)["expired"] == 1

    assert chunk.states() == {"a.wav": "landed", "b.wav": "expired", "c.wav": "landed"}
    assert "does not know" in (chunk.entries()["b.wav"].error or "")


@pytest.mark.parametrize("status", [403, 422])
def test_one_whose_result_is_always_refused_is_given_up_and_the_others_land(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(waiting, "REFUSED", waiting.Patience(3, 0.2))
    chunk.plaud.advance(601)
    chunk.plaud.inject(
        {
            "match": {"kind": "get", "path_contains": ids(chunk)["b.wav"]},
            "times": 1000,
            "action": "status",
            "status": status,
        }
    )

    assert chunk.land()["failed"] == 1

    assert chunk.states() == {"a.wav": "landed", "b.wav": "failed", "c.wav": "landed"}
    given_up = chunk.entries()["b.wav"]
    assert f"HTTP {status}" in (given_up.error or "")
    assert given_up.transcription_id == ids(chunk)["b.wav"], "what was paid for keeps its id"
    assert set(chunk.paid().values()) == {1}


def test_an_event_of_another_version_fails_closed(chunk: Archive) -> None:
    first = deferred(chunk)

    with pytest.raises(PlaudTriggerEventError, match="same version"):
        chunk.resumed_land(first, {"version": 99, "outcome": "done"})


# What lies there already


def test_a_retry_lands_first_what_was_kept(chunk: Archive) -> None:
    deferred(chunk)
    chunk.plaud.force(ids(chunk)["a.wav"], status="completed", text=TEXT)
    chunk.keep("a.wav")
    asked = len(chunk.plaud.ledger(kind="get"))

    again = deferred(chunk, try_number=2)

    assert chunk.landed() == {"a.wav": "completed"}
    assert len(chunk.plaud.ledger(kind="get")) == asked
    assert len(trigger_of(again).transcription_ids) == 2


def test_a_retry_keeps_the_deadline_and_a_clear_begins_a_new_one(chunk: Archive) -> None:
    first = trigger_of(deferred(chunk))
    retried = trigger_of(deferred(chunk, try_number=2))
    context = chunk.context("land", try_number=3, max_tries=2)
    with pytest.raises(TaskDeferred) as waiting:
        chunk.land_task().execute(context)

    assert retried.end_time == first.end_time
    assert trigger_of(waiting.value).end_time > first.end_time


def test_a_retry_after_the_deadline_lands_what_was_kept_and_ends(chunk: Archive) -> None:
    with pytest.raises(PlaudArchiveError):
        chunk.land(timeout=0.1)
    chunk.plaud.advance(601)
    chunk.keep("a.wav")

    with pytest.raises(PlaudArchiveError, match="1 landed, 2 processing"):
        chunk.land(timeout=0.1, try_number=2)
    assert chunk.landed() == {"a.wav": "completed"}


def test_a_warehouse_that_is_away_leaves_what_was_kept_to_a_retry(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk.plaud.advance(601)

    def away(*_: Any, **__: Any) -> None:
        raise PlaudWarehouseError("the warehouse is away")

    with monkeypatch.context() as trouble:
        trouble.setattr(WarehouseWriter, "replace", away)
        with pytest.raises(PlaudWarehouseError):
            chunk.land()
    assert len(chunk.kept()) == 3
    asked = len(chunk.plaud.ledger(kind="get"))

    assert chunk.land(try_number=2)["landed"] == 3
    assert len(chunk.plaud.ledger(kind="get")) == asked, "nothing is asked for twice"
    assert chunk.kept() == []


def test_what_another_run_has_landed_meanwhile_is_not_landed_again(chunk: Archive) -> None:
    first = deferred(chunk)
    chunk.plaud.advance(601)
    chunk.list("second")
    chunk.submit("second")
    chunk.land("second")
    asked = len(chunk.plaud.ledger(kind="get"))

    assert chunk.resumed_land(first, event(chunk, "done"))["landed"] == 3
    assert {row[0] for row in chunk.warehouse.rows("select run_id from plaud_transcripts")} == {"second"}
    assert len(chunk.plaud.ledger(kind="get")) == asked


def test_a_kept_answer_that_is_gone_is_asked_for(chunk: Archive) -> None:
    first = deferred(chunk)
    chunk.plaud.advance(601)
    chunk.keep("a.wav", "b.wav", "c.wav")
    chunk.kept()[0].unlink()
    asked = len(chunk.plaud.ledger(kind="get"))

    assert chunk.resumed_land(first, event(chunk, "done"))["landed"] == 3
    assert chunk.count_of_states() == {"landed": 3}
    assert len(chunk.plaud.ledger(kind="get")) == asked + 1


def test_kept_answers_stay_with_keep_raw(chunk: Archive) -> None:
    chunk.plaud.advance(601)
    chunk.land(keep_raw="True")

    assert len(chunk.kept()) == 3
    assert chunk.count_of_states() == {"landed": 3}


# Fault row 35
def test_what_plaud_does_not_know_yet_is_not_expired(chunk: Archive) -> None:
    first = deferred(chunk)
    chunk.plaud.advance(601)
    chunk.keep("a.wav", "c.wav")
    not_yet = ids(chunk)["b.wav"]
    chunk.plaud.inject(
        {"match": {"kind": "get", "path_contains": not_yet}, "times": 1, "action": "status", "status": 404}
    )

    # Another run has submitted it since the trigger began: its event does not tell of it.
    with pytest.raises(TaskDeferred):
        chunk.resumed_land(first, event(chunk, "done"))
    assert chunk.states()["b.wav"] == "processing"

    old = (datetime.now(tz=UTC) - timedelta(minutes=2)).strftime("%Y-%m-%d %H:%M:%S.%f")
    chunk.warehouse.run(f"update plaud_submissions set submitted_at = '{old}'")
    chunk.plaud.inject(
        {"match": {"kind": "get", "path_contains": not_yet}, "times": 1, "action": "status", "status": 404}
    )
    chunk.resumed_land(first, event(chunk, "done"))
    assert chunk.states()["b.wav"] == "expired"


# Fault row 40
def test_another_region_waits_for_nothing_of_the_first(
    chunk: Archive, plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(plaud.ledger())
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", plaud.airflow_connection.replace('"us"', '"eu"'))

    with pytest.raises(PlaudArchiveError, match="3 processing"):
        chunk.land()
    assert chunk.count_of_states() == {"processing": 3}
    assert len(plaud.ledger()) == before

    chunk.submit(try_number=2)
    regions = chunk.warehouse.rows("select region, count(*) from plaud_submissions group by region")
    assert sorted(regions) == [("eu", 3), ("us", 3)], "and submits for its own"


# Nothing to do, and what is wrong


def test_a_plan_waits_for_nothing(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()
    archive.submit(plan_only=True)

    assert archive.land(plan_only="True") == {}
    assert archive.plaud.ledger() == []


def test_a_chunk_whose_submit_failed_before_it_began_has_not_been_submitted(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()

    with pytest.raises(PlaudArchiveError, match=r"2 recordings: 0 landed, 2 not submitted.*the next run"):
        archive.land()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"sql_conn_id": "no_such"}, PlaudConfigurationError, "sql_conn_id: .*'no_such'"),
        ({"results_path": "results"}, PlaudConfigurationError, "results_path"),
        ({"region": "eu"}, PlaudConfigurationError, "'eu' was asked for"),
        ({"keep_raw": "perhaps"}, PlaudInputError, "keep_raw: 'perhaps'"),
        ({"plan_only": "perhaps"}, PlaudInputError, "plan_only: 'perhaps'"),
    ],
)
def test_a_wrong_argument_is_told(
    chunk: Archive, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    chunk.plaud.advance(601)

    with pytest.raises(kind, match=message):
        chunk.land(**arguments)
    assert chunk.count_of_states() == {"processing": 3}


@pytest.mark.parametrize("arguments", [{"timeout": "soon"}, {"timeout": -1}, {"poke_interval": None}])
def test_a_wrong_time_is_told_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    with pytest.raises(PlaudInputError, match=f"{next(iter(arguments))}: "):
        LandRecordingsOperator(
            task_id="land", manifest="m", results_path="/r", ledger_conn_id=CONN_ID, **arguments
        )


# What is counted, and what fails


def end(archive: Archive, state: State, *names: str, error: str | None = None) -> None:
    """Have recordings ended otherwise."""
    told = f"'{error}'" if error else "null"
    for name in names:
        key = archive.keys()[name]
        archive.warehouse.run(
            f"update plaud_submissions set state = '{state.value}', error = {told} "
            f"where recording_key = '{key}'"
        )


@pytest.mark.parametrize("state", [State.CLAIMED, State.SUBMITTING])
def test_what_is_left_over_always_fails(chunk: Archive, state: State) -> None:
    chunk.plaud.advance(601)
    end(chunk, state, "a.wav")

    with pytest.raises(
        PlaudArchiveError, match="1 recordings are neither landed nor known to be bad"
    ) as told:
        chunk.land()
    assert isinstance(told.value, AirflowFailException), "a retry would count the same"
    assert chunk.count_of_states()["landed"] == 2


def test_what_is_bad_is_counted_and_some_of_it_is_told_to_the_report(chunk: Archive) -> None:
    chunk.plaud.advance(601)
    end(chunk, State.UNKNOWN, "a.wav", error="the answer was lost")
    end(chunk, State.EXPIRED, "b.wav", error="not known any more")
    context = chunk.context("count")

    counts = chunk.land_task().resume_execution("resume", {"event": event(chunk, "done")}, context)

    assert counts == {"total": 3, **NONE, "landed": 1, "unknown": 1, "expired": 1}
    assert context["ti"].xcom(COUNTS_KEY) == counts
    assert context["ti"].xcom(PROBLEMS_KEY) == [
        f"{chunk.folder}/a.wav: the answer was lost",
        f"{chunk.folder}/b.wav: not known any more",
    ]


def test_the_message_has_counts_reasons_and_remedies_and_no_secret(chunk: Archive) -> None:
    end(chunk, State.FAILED, "a.wav", error="nothing was said")
    end(chunk, State.UNKNOWN, "b.wav", error="the answer was lost")

    with pytest.raises(PlaudArchiveError) as told:
        chunk.count()

    message = str(told.value)
    assert message.startswith(
        "1 recordings are neither landed nor known to be bad "
        "(3 recordings: 0 landed, 1 failed, 1 unknown, 1 processing). "
    )
    for remedy in ("resubmit=['failed']", "resubmit=['unknown']", "the next run"):
        assert remedy in message
    assert "resubmit=['expired']" not in message, "no remedy for what is not the matter"
    assert f"{chunk.folder}/a.wav: nothing was said" in message
    assert "secret-key-canary" not in message


# Fault row 63
def test_keys_that_another_listing_left_in_the_chunk_do_not_count(chunk: Archive) -> None:
    chunk.plaud.advance(601)
    for name in NAMES[1:]:
        (chunk.folder / name).unlink()
    chunk.add("new.wav")
    # The list task was cleared; the submit of this chunk has failed since.
    chunk.list()

    with pytest.raises(PlaudArchiveError, match=r"2 recordings: 1 landed, 1 not submitted"):
        chunk.land()


# The target


@pytest.mark.parametrize("elsewhere", [{"transcripts_table": "t2", "segments_table": "s2"}])
def test_what_has_landed_elsewhere_lands_here_too_without_a_second_payment(
    chunk: Archive, elsewhere: dict[str, Any]
) -> None:
    chunk.plaud.advance(601)
    chunk.land()
    chunk.list("second")
    chunk.submit("second", **elsewhere)

    assert chunk.land("second", **elsewhere)["landed"] == 3

    assert chunk.warehouse.rows("select count(*) from t2") == [(3,)]
    assert set(chunk.paid().values()) == {1}
    assert len(chunk.plaud.ledger(kind="get")) == 6, "one more look at each"


def test_what_has_landed_and_was_dropped_lands_again(chunk: Archive) -> None:
    chunk.plaud.advance(601)
    chunk.land()
    chunk.warehouse.run("drop table plaud_segments")
    chunk.warehouse.run("drop table plaud_transcripts")

    assert chunk.land("again_in_the_same_chunk", **chunk._common("run"))["landed"] == 3
    assert chunk.landed() == dict.fromkeys(NAMES, "completed")


def test_what_has_landed_elsewhere_and_is_gone_at_plaud_is_bad_and_says_where_it_is(chunk: Archive) -> None:
    chunk.plaud.advance(601)
    chunk.land()
    elsewhere: dict[str, Any] = {"transcripts_table": "t2", "segments_table": "s2"}
    first = deferred(chunk, **elsewhere)

    counts = chunk.resumed_land(first, event(chunk, "done", missing=tuple(ids(chunk).values())), **elsewhere)

    assert (counts["landed"], counts["expired"]) == (0, 3)
    assert "It landed in warehouse_default:plaud_transcripts" in str(chunk.entries()["a.wav"].error)
    assert chunk.count()["landed"] == 3, "where it has landed it still counts"


def test_execution_timeout_ends_a_wait_and_a_retry_goes_on(chunk: Archive) -> None:
    with pytest.raises(AirflowTaskTimeout, match="nothing is paid twice"):
        chunk.land(execution_timeout=timedelta(seconds=0.5))
    chunk.plaud.advance(601)

    assert chunk.land(try_number=2, execution_timeout=timedelta(seconds=60))["landed"] == 3


def test_a_landed_chunk_is_an_event_of_its_assets(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit()
    archive.plaud.state.clock.advance(3600)
    archive.keep("a.wav", "b.wav")
    asset, context = Asset("chunks"), archive.context("land")

    archive.land_task(timeout=0, outlets=[asset]).execute(context)

    extra = context["outlet_events"][asset].extra
    assert (extra["total"], extra["landed"], extra["failed"]) == (2, 2, 0)
