"""The end of a chunk and of a run: what is counted, what fails, and what is said."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from plaud_provider.exceptions import PlaudArchiveError, PlaudInputError
from plaud_provider.handover.kept_results import ResultStore
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.ledger.ledger import State
from plaud_provider.operators.chunk import COUNTS_KEY
from plaud_provider.operators.finish_recordings import FinishRecordingsOperator, ReportRecordingsOperator
from tests.unit.operators.archives import Archive
from tests.unit.tasks import task_context

TEN = tuple(f"{n}.wav" for n in range(10))
ALL_WELL = {"landed": 10, "failed": 0, "unknown": 0, "expired": 0, "processing": 0, "not_submitted": 0}


@pytest.fixture
def chunk(archive: Archive) -> Archive:
    """An archive of ten recordings that have all landed."""
    return with_landed(archive, *TEN)


def with_landed(archive: Archive, *names: str) -> Archive:
    """Have recordings landed, without anybody submitting them."""
    archive.add(*names)
    archive.list()
    archive.submit(plan_only=True)
    archive.hold(*names)
    archive.warehouse.run("update plaud_submissions set state = 'landed', transcription_id = recording_key")
    return archive


def end(archive: Archive, state: State, *names: str, error: str | None = None) -> None:
    """Have recordings ended otherwise."""
    told = f"'{error}'" if error else "null"
    for name in names:
        key = archive.keys()[name]
        archive.warehouse.run(
            f"update plaud_submissions set state = '{state.value}', error = {told} "
            f"where recording_key = '{key}'"
        )


def test_a_chunk_that_has_landed_is_counted(chunk: Archive) -> None:
    context = chunk.context("finish")
    task = FinishRecordingsOperator(task_id="finish", **chunk._landing("run"))

    assert task.execute(context) == {"total": 10, **ALL_WELL}
    assert context["ti"].xcom(COUNTS_KEY) == {"total": 10, **ALL_WELL}


def test_it_runs_whatever_happened_before_it() -> None:
    task = FinishRecordingsOperator(task_id="finish", manifest="m", results_path="/r", ledger_conn_id="l")
    report = ReportRecordingsOperator(
        task_id="report", manifests=[], list_task_id="l", submit_task_id="s", finish_task_id="f"
    )

    assert (task.trigger_rule, report.trigger_rule) == ("all_done", "all_done")


def test_what_was_kept_is_landed_without_a_call(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit()
    archive.plaud.advance(601)
    store = ResultStore(str(archive.results))
    with PlaudHook() as hook:
        for entry in archive.entries().values():
            store.save(hook.get_transcription(str(entry.transcription_id)), "us")
    asked = len(archive.plaud.ledger())

    assert archive.finish()["landed"] == 2
    assert archive.landed() == {"a.wav": "completed", "b.wav": "completed"}
    assert archive.kept() == []
    assert len(archive.plaud.ledger()) == asked


@pytest.mark.parametrize(
    ("max_failed", "bad", "is_well"),
    [
        (2, 2, True),
        (2, 3, False),
        ("2", 3, False),
        (0.2, 2, True),
        (0.2, 3, False),
        ("0.2", 3, False),
        (0.3, 3, True),
        (0, 0, True),
        (0, 1, False),
        (None, 10, True),
        ("None", 10, True),
        ("", 10, True),
    ],
)
def test_so_many_may_be_bad(chunk: Archive, max_failed: float | str | None, bad: int, is_well: bool) -> None:
    for n, name in enumerate(TEN[:bad]):
        end(chunk, (State.FAILED, State.UNKNOWN, State.EXPIRED)[n % 3], name, error="no reason")

    if is_well:
        assert chunk.finish(max_failed=max_failed)["landed"] == 10 - bad
    else:
        with pytest.raises(PlaudArchiveError, match=f"{bad} recordings failed, max_failed=") as told:
            chunk.finish(max_failed=max_failed)
        assert isinstance(told.value, AirflowFailException), "a retry would count the same"


def test_a_share_allows_what_it_is_of_a_hundred(archive: Archive) -> None:
    # 0.29 * 100 is 28.999999999999996.
    names = [f"{n}.wav" for n in range(100)]
    with_landed(archive, *names)
    end(archive, State.FAILED, *names[:29], error="no speech")

    assert archive.finish(max_failed=0.29)["failed"] == 29


@pytest.mark.parametrize("max_failed", [None, 100])
@pytest.mark.parametrize("state", [State.PROCESSING, State.CLAIMED, State.SUBMITTING])
def test_what_is_left_over_always_fails(chunk: Archive, state: State, max_failed: float | None) -> None:
    end(chunk, state, "3.wav")

    with pytest.raises(PlaudArchiveError, match="1 recordings are neither landed nor known to be bad"):
        chunk.finish(max_failed=max_failed)


def test_the_message_has_counts_reasons_and_remedies_and_no_secret(chunk: Archive) -> None:
    end(chunk, State.FAILED, *TEN[:6], error="nothing was said")
    end(chunk, State.UNKNOWN, "6.wav", error="the answer was lost")
    end(chunk, State.EXPIRED, "7.wav", error="not known any more")
    end(chunk, State.PROCESSING, "8.wav")

    with pytest.raises(PlaudArchiveError) as told:
        chunk.finish(max_failed=0.1)

    message = str(told.value)
    assert message.startswith(
        "8 recordings failed, max_failed=0.1 allows 1; 1 recordings are neither landed nor known to be bad "
        "(10 recordings: 1 landed, 6 failed, 1 unknown, 1 expired, 1 processing). "
    )
    for remedy in ("resubmit=['failed']", "resubmit=['unknown']", "resubmit=['expired']", "the next run"):
        assert remedy in message
    assert "What was not submitted" not in message, "no remedy for what is not the matter"
    assert message.count("nothing was said") == 5
    assert message.endswith("; and 3 more")
    assert "/calls/0.wav: nothing was said" in message
    assert "secret-key-canary" not in message


def test_a_chunk_whose_submit_failed_before_it_began_has_not_been_submitted(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()

    with pytest.raises(PlaudArchiveError, match=r"2 recordings: 0 landed, 2 not submitted.*the next run"):
        archive.finish()


# Fault row 63
def test_keys_that_another_listing_left_in_the_chunk_do_not_count(chunk: Archive) -> None:
    for name in TEN[1:]:
        (chunk.folder / name).unlink()
    chunk.add("new.wav")
    # The list task was cleared; the submit of this chunk has failed since.
    chunk.list()

    with pytest.raises(PlaudArchiveError, match=r"2 recordings: 1 landed, 1 not submitted"):
        chunk.finish(max_failed=None)


def test_a_plan_has_nothing_to_finish(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()
    archive.submit(plan_only=True)

    assert archive.finish(plan_only="True") == {}
    assert archive.landed() == {}


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"max_failed": "some"}, PlaudInputError, "max_failed: 'some' is not a number of at least 0"),
        ({"max_failed": -1}, PlaudInputError, "max_failed: -1"),
        ({"plan_only": "perhaps"}, PlaudInputError, "plan_only: 'perhaps'"),
    ],
)
def test_a_wrong_argument_is_told(
    chunk: Archive, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        chunk.finish(**arguments)


# The report

SUBMITTED = {"total": 200, "landed_before": 150, "waiting": 12, "new": 38, "refused": 1, "audio_hours": 9.5}
FINISHED = {"total": 200, **ALL_WELL, "landed": 199, "failed": 1}


def report(
    *,
    manifests: Any = ("1.jsonl", "2.jsonl"),
    submitted: list[Any] | None = None,
    finished: list[Any] | None = None,
    finish_states: tuple[str, ...] = ("success", "success"),
    list_state: str = "success",
    outlets: tuple[Any, ...] = (),
) -> tuple[Any, Any]:
    """Run the report of two chunks; return its result and its context."""
    task = ReportRecordingsOperator(
        task_id="report",
        manifests=manifests,
        list_task_id="list",
        submit_task_id="submit",
        finish_task_id="finish",
        outlets=list(outlets),
    )
    context = task_context(
        None,
        task_id="report",
        others={
            ("submit", COUNTS_KEY): [{**SUBMITTED, "submitted": 38}] * 2 if submitted is None else submitted,
            ("finish", COUNTS_KEY): [FINISHED] * 2 if finished is None else finished,
        },
        states={"finish": list(finish_states), "list": [list_state]},
    )
    return task.execute(context), context


def test_a_report_sums_up(capfd: pytest.CaptureFixture[str]) -> None:
    counts, _ = report()

    assert counts == {
        "total": 400,
        "landed_before": 300,
        "waiting": 24,
        "new": 76,
        "refused": 2,
        "submitted": 76,
        "audio_hours": 19.0,
        "landed": 398,
        "failed": 2,
        "unknown": 0,
        "expired": 0,
        "processing": 0,
        "not_submitted": 0,
    }
    said = "".join(capfd.readouterr())
    assert "400 recordings in 2 chunks: 300 landed before, 24 waiting, 76 new, about 19.0 audio hours" in said
    assert "400 recordings: 398 landed, 2 failed." in said


def test_assets_get_the_counts_and_aliases_are_left_alone() -> None:
    transcripts, segments, alias = Asset("plaud_transcripts"), Asset("plaud_segments"), AssetAlias("alias")
    counts, context = report(outlets=(transcripts, segments, alias))

    events = context["outlet_events"]
    assert events[transcripts].extra == events[segments].extra == counts
    assert list(events) == [transcripts, segments]


def test_an_empty_archive_is_a_good_end() -> None:
    counts, _ = report(manifests=[], submitted=[], finished=[], finish_states=())

    assert set(counts.values()) == {0}


def test_a_plan_is_a_good_end() -> None:
    counts, _ = report(submitted=[SUBMITTED, SUBMITTED], finished=[])

    assert (counts["new"], counts["audio_hours"], counts["landed"]) == (76, 19.0, 0)


def test_a_listing_that_failed_fails_the_report() -> None:
    with pytest.raises(PlaudArchiveError, match="could not be listed"):
        report(manifests=None, submitted=[], finished=[], finish_states=(), list_state="failed")


def test_a_listing_that_was_skipped_skips_the_report() -> None:
    with pytest.raises(AirflowSkipException):
        report(manifests=None, submitted=[], finished=[], finish_states=(), list_state="skipped")


@pytest.mark.parametrize(
    ("states", "finished"),
    [
        (("success", "failed"), [FINISHED, {**FINISHED, "landed": 100, "not_submitted": 99}]),
        (("success", "upstream_failed"), [FINISHED]),
        (("success",), [FINISHED]),
    ],
)
def test_a_chunk_without_a_good_end_fails_the_report_and_updates_no_asset(
    states: tuple[str, ...], finished: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asset = Asset("plaud_transcripts")

    with pytest.raises(PlaudArchiveError, match=r"1 of 2 chunks did not come to a good end .*'finish'"):
        report(finish_states=states, finished=finished, outlets=(asset,))
