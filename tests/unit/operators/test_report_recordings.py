"""The end of a run: what is summed up, what fails, what is said, and what is cleared up."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from plaud_provider.exceptions import PlaudArchiveError, PlaudInputError
from plaud_provider.operators.chunk import COUNTS_KEY, PROBLEMS_KEY
from plaud_provider.operators.list_recordings import manifest_folder
from plaud_provider.operators.report_recordings import ReportRecordingsOperator
from tests.unit.operators.archives import SUBMIT, Archive
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import CONN_ID

SUBMITTED = {"total": 200, "landed_before": 0, "waiting": 12, "new": 188, "refused": 1, "audio_hours": 9.51}
LANDED = {
    "total": 200,
    "landed": 199,
    "failed": 1,
    "unknown": 0,
    "expired": 0,
    "processing": 0,
    "not_submitted": 0,
}
SETTLED = {
    "landed_before": 600,
    "failed_before": 0,
    "unknown_before": 0,
    "expired_before": 0,
    "left_by_others": 0,
}


def report(
    archive: Archive,
    *,
    manifests: Any = ("1.jsonl", "2.jsonl"),
    settled: Any = SETTLED,
    submitted: list[Any] | None = None,
    landed: list[Any] | None = None,
    land_states: tuple[str, ...] = ("success", "success"),
    list_state: str = "success",
    problems: list[Any] | None = None,
    refused: list[str] | None = None,
    **arguments: Any,
) -> tuple[Any, Any]:
    """Run the report of two chunks; return its result and its context."""
    task = ReportRecordingsOperator(
        task_id="report",
        manifests=manifests,
        results_path=str(archive.results),
        ledger_conn_id=CONN_ID,
        list_task_id="list",
        submit_task_id="submit",
        land_task_id="land",
        **arguments,
    )
    context = task_context(
        None,
        task_id="report",
        others={
            ("list", COUNTS_KEY): [settled],
            ("submit", COUNTS_KEY): [{**SUBMITTED, "submitted": 188}] * 2 if submitted is None else submitted,
            ("land", COUNTS_KEY): [LANDED] * 2 if landed is None else landed,
            ("land", PROBLEMS_KEY): [problems or []],
            ("submit", PROBLEMS_KEY): [refused or []],
        },
        states={"land": list(land_states), "list": [list_state]},
    )
    return task.execute(context), context


def test_a_report_sums_up(archive: Archive, capfd: pytest.CaptureFixture[str]) -> None:
    counts, _ = report(archive)

    assert counts == {
        "total": 1000,
        "landed_before": 600,
        "waiting": 24,
        "new": 376,
        "refused": 2,
        "submitted": 376,
        "audio_hours": 19.02,
        "landed": 998,
        "failed": 2,
        "unknown": 0,
        "expired": 0,
        "processing": 0,
        "not_submitted": 0,
    }
    said = "".join(capfd.readouterr())
    assert "1000 recordings: 600 landed before, 24 waiting, 376 new, 19 h 1 min of audio, 2 refused." in said
    assert "Now 1000 recordings: 998 landed, 2 failed." in said


@pytest.mark.parametrize("is_plan", [True, False])
def test_one_new_of_three_adds_up_with_names_and_money(
    archive: Archive, is_plan: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    archive.add("a.wav", seconds=3600)
    archive.folder.joinpath("b.wav").write_bytes(b"")
    archive.folder.joinpath("c.wav").write_bytes(b"no sound")
    archive.list()
    context = archive.context(SUBMIT)
    counts = archive.submit_task(plan_only=is_plan).execute(context)

    report(
        archive,
        settled=None,
        submitted=[counts],
        landed=[{}] if is_plan else [{**LANDED, "total": 3, "landed": 1, "failed": 2}],
        refused=context["ti"].xcom(PROBLEMS_KEY),
        plan_only=is_plan,
        price_per_hour="0.28 USD",
        max_failed=None,
    )

    said = "".join(capfd.readouterr())
    plan = (
        "3 recordings: 0 landed before, 0 waiting, 1 new, 1 h 0 min of audio for about 0.28 USD, 2 refused."
    )
    assert plan in said
    assert ("Now 3 recordings: 1 landed, 2 failed." in said) is not is_plan
    told = said[said.index("Refused:") :]
    assert "b.wav' is empty" in told
    assert "c.wav'" in told


def test_price_is_that_of_the_connection_and_a_wrong_one_stops_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_PLAUD_DEFAULT"])
    extra = connection.get("extra") or {}
    for price, words in (("0.25 EUR", "for about 4.75 EUR, 2 refused"), ("cheap", "of audio, 2 refused")):
        told = {**connection, "extra": {**extra, "price_per_hour": price}}
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(told))

        report(archive)

        assert words in "".join(capfd.readouterr())


def test_assets_get_the_counts_and_aliases_are_left_alone(archive: Archive) -> None:
    transcripts, segments, alias = Asset("plaud_transcripts"), Asset("plaud_segments"), AssetAlias("alias")
    counts, context = report(archive, outlets=[transcripts, segments, alias])

    events = context["outlet_events"]
    assert events[transcripts].extra == events[segments].extra == counts
    assert list(events) == [transcripts, segments]


def test_an_empty_archive_is_a_good_end(archive: Archive) -> None:
    counts, _ = report(archive, manifests=[], settled=None, submitted=[], landed=[], land_states=())

    assert set(counts.values()) == {0}


def test_what_was_settled_before_is_counted_though_there_is_no_chunk(archive: Archive) -> None:
    counts, _ = report(archive, manifests=[], submitted=[], landed=[], land_states=())

    assert (counts["total"], counts["landed"]) == (600, 600)


def test_a_plan_is_a_good_end(archive: Archive) -> None:
    counts, _ = report(archive, submitted=[SUBMITTED, SUBMITTED], landed=[{}, {}], plan_only="True")

    assert (counts["total"], counts["new"], counts["audio_hours"]) == (1000, 376, 19.02)


def test_a_listing_that_failed_fails_the_report(archive: Archive) -> None:
    with pytest.raises(PlaudArchiveError, match="could not be listed"):
        report(archive, manifests=None, submitted=[], landed=[], land_states=(), list_state="failed")


def test_a_listing_that_was_skipped_skips_the_report(archive: Archive) -> None:
    with pytest.raises(AirflowSkipException):
        report(archive, manifests=None, submitted=[], landed=[], land_states=(), list_state="skipped")


@pytest.mark.parametrize(
    ("states", "landed"),
    [
        (("success", "failed"), [LANDED, {**LANDED, "landed": 100, "not_submitted": 99}]),
        (("success", "upstream_failed"), [LANDED]),
        (("success",), [LANDED]),
    ],
)
def test_a_chunk_without_a_good_end_fails_the_report_and_updates_no_asset(
    archive: Archive, states: tuple[str, ...], landed: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asset = Asset("plaud_transcripts")

    with pytest.raises(PlaudArchiveError, match=r"1 of 2 chunks did not come to a good end.*'land'"):
        report(archive, land_states=states, landed=landed, outlets=[asset])


@pytest.mark.parametrize(
    ("max_failed", "bad", "is_well"),
    [
        (2, 2, True),
        (2, 3, False),
        ("2", 3, False),
        (0.2, 200, True),
        (0.2, 201, False),
        ("0.2", 201, False),
        # 0.29 * 1000 is a little less than 290 to a computer.
        (0.29, 290, True),
        (0, 0, True),
        (0, 1, False),
        (None, 1000, True),
        ("None", 1000, True),
        ("", 1000, True),
    ],
)
def test_so_many_of_the_run_may_be_bad(
    archive: Archive, max_failed: float | str | None, bad: int, is_well: bool
) -> None:
    one = {**LANDED, "landed": 0, "failed": bad // 3, "unknown": bad - 2 * (bad // 3), "expired": 0}
    settled = {**SETTLED, "landed_before": 1000 - bad, "expired_before": bad // 3}
    landed = [{**one, "total": bad - bad // 3}]

    if is_well:
        counts, _ = report(
            archive, landed=landed, settled=settled, max_failed=max_failed, land_states=("success",) * 2
        )
        assert counts["landed"] == 1000 - bad
    else:
        with pytest.raises(PlaudArchiveError, match=f"{bad} recordings failed, max_failed=") as told:
            report(archive, landed=landed, settled=settled, max_failed=max_failed)
        assert isinstance(told.value, AirflowFailException), "a retry would count the same"


def test_the_message_has_counts_reasons_and_remedies(archive: Archive) -> None:
    landed = [{**LANDED, "landed": 190, "failed": 9, "unknown": 1}]
    reasons = [f"s3://calls/{n}.wav: nothing was said" for n in range(7)]

    with pytest.raises(PlaudArchiveError) as told:
        report(archive, landed=landed, settled=None, problems=reasons, max_failed=0.01)

    message = str(told.value)
    assert message.startswith(
        "10 recordings failed, max_failed=0.01 allows 2. (200 recordings: 190 landed, 9 failed, 1 unknown). "
    )
    for remedy in ("resubmit=['failed']", "resubmit=['unknown']"):
        assert remedy in message
    assert "resubmit=['expired']" not in message, "no remedy for what is not the matter"
    assert message.count("nothing was said") == 5
    assert message.endswith("; and 2 more")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_failed": "some"}, "max_failed: 'some' is not a number of at least 0"),
        ({"max_failed": -1}, "max_failed: -1"),
        ({"plan_only": "perhaps"}, "plan_only: 'perhaps'"),
    ],
)
def test_a_wrong_argument_is_told(archive: Archive, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PlaudInputError, match=message):
        report(archive, **arguments)


# What is cleared up


def left_over(archive: Archive) -> set[str]:
    return {str(path.relative_to(archive.results)) for path in archive.results.rglob("*") if path.is_file()}


def landed_run(archive: Archive) -> dict[str, str]:
    """Have two recordings landed and one waited for; return their ids."""
    archive.add("a.wav", "b.wav", "c.wav")
    archive.list()
    archive.submit()
    ids = {name: str(entry.transcription_id) for name, entry in archive.entries().items()}
    for name in ("a.wav", "b.wav"):
        archive.plaud.force(ids[name], status="completed", text="a")
    archive.keep("a.wav", "b.wav")
    with pytest.raises(PlaudArchiveError):
        archive.count()
    return ids


# Fault row 97
def test_what_is_landed_is_not_left_at_results_path_and_what_is_not_stays(archive: Archive) -> None:
    ids = landed_run(archive)
    archive.plaud.force(ids["c.wav"], status="completed", text="c")
    # As the trigger of another run does that comes late.
    archive.keep(*ids)
    (archive.results / "notes.txt").write_text("of somebody else")
    (archive.results / "other.json").write_text("of somebody else")

    report(archive)

    kept = [path for path in archive.kept() if path.name != "other.json"]
    assert len(kept) == 1, "c.wav is to be landed"
    assert {"notes.txt", "other.json"} <= left_over(archive)


def test_what_is_older_than_plaud_keeps_it_goes(archive: Archive) -> None:
    ids = landed_run(archive)
    archive.plaud.force(ids["c.wav"], status="completed", text="c")
    archive.keep("c.wav")
    [kept] = archive.kept()
    age(kept, days=8)

    report(archive)

    assert archive.kept() == []


def age(path: Path, *, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_chunks_of_a_run_that_is_done_go_and_those_that_can_be_cleared_stay(archive: Archive) -> None:
    archive.add("a.wav")
    own = Path(manifest_folder(str(archive.results), task_context(None, task_id="report"), "list"))
    other = archive.results / "manifests" / "dag" / "other" / "list"
    for folder, days in ((own, 0), (other, 20), (other.parent / "older", 40)):
        folder.mkdir(parents=True)
        for name in (
            "chunk-00001.jsonl",
            "chunk-00001.keys.jsonl",
            "left-over.jsonl",
            "left-over.keys.jsonl",
        ):
            (folder / name).write_text("{}")
            age(folder / name, days=days)

    with pytest.raises(PlaudArchiveError):
        report(archive, land_states=("success", "failed"))
    assert {path.split("/")[2:4][0] for path in left_over(archive)} == {"run", "other"}
    assert len(left_over(archive)) == 8, "those of a month ago are gone"

    report(archive)
    assert len(left_over(archive)) == 4, "another run may still need its own"


def test_kept_answers_stay_with_keep_raw(archive: Archive) -> None:
    landed_run(archive)
    archive.keep("a.wav")

    report(archive, keep_raw=True)

    assert len(archive.kept()) == 1


def test_a_run_does_not_fail_since_it_cannot_be_cleared_up(
    archive: Archive, capfd: pytest.CaptureFixture[str]
) -> None:
    archive.results.parent.mkdir(parents=True, exist_ok=True)
    archive.results.write_text("not a folder")

    counts, _ = report(archive)

    assert counts["landed"] == 998
    assert "stays for the next run" in "".join(capfd.readouterr())


@pytest.mark.parametrize(("max_failed", "is_good"), [(2, True), (1, False)])
def test_callbacks_get_the_report_as_text_and_as_data(
    archive: Archive, max_failed: float, is_good: bool
) -> None:
    pushed: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tests.unit.tasks.TaskInstance.xcom_push", lambda ti, key, value: pushed.append((key, value))
        )
        if is_good:
            report(archive, max_failed=max_failed, problems=["s3://calls/a.wav: noise"])
        else:
            with pytest.raises(PlaudArchiveError):
                report(archive, max_failed=max_failed, problems=["s3://calls/a.wav: noise"])

    [(key, told)] = pushed
    assert (key, told["is_good"]) == ("summary", is_good)
    assert told["counts"]["landed"] == 998
    assert told["text"].startswith("1000 recordings: 600 landed before")
    assert ("max_failed=1 allows 1" in told["text"]) is not is_good
    assert told["problems"] == ["s3://calls/a.wav: noise"]
