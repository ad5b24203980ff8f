"""The submit of a chunk when something goes wrong: nothing is paid twice, one recording stops no other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from plaud_provider.api import calls
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudAuthenticationError,
    PlaudConfigurationError,
    PlaudInputError,
    PlaudRateLimitError,
    PlaudServerError,
    PlaudStorageError,
    PlaudSubmitsPausedError,
    PlaudTokenRejectedError,
    PlaudWarehouseError,
)
from plaud_provider.handover.manifest import write_manifest
from plaud_provider.ledger.ledger import Ledger, State
from plaud_provider.quota import breaker
from plaud_provider.recordings.listing import Found, list_recordings
from plaud_provider.recordings.local_files import LocalFile
from plaud_provider.submit import memory, plan, send
from tests.unit.operators.archives import STRANGER, Archive
from tests.unit.s3_server import S3Server

NAMES = ("a.wav", "b.wav", "c.wav")


@pytest.fixture
def chunk(archive: Archive) -> Archive:
    """An archive of three recordings that are listed."""
    archive.add(*NAMES)
    archive.list()
    return archive


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the ledger what has happened again at once."""
    monkeypatch.setattr(memory, "wait_exponential", lambda **_: 0)


def let_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time have come at which one submit finds out whether Plaud answers again."""
    due = ["one"]
    admit = breaker.Breaker.admit

    def admit_one(self: breaker.Breaker, call: str, **times: float) -> breaker.Admission:
        if due:
            due.clear()
            self.next_trial_at = times["now"]
        return admit(self, call, **times)

    monkeypatch.setattr(breaker.Breaker, "admit", admit_one)


@pytest.mark.parametrize(
    "trouble",
    [
        {"action": "status", "status": 503},
        {"action": "status", "status": 502},
        {"action": "drop_after"},
        {"action": "html"},
        {"action": "body", "body": '{"transcriptionId": ['},
    ],
    ids=lambda trouble: "_".join(map(str, trouble.values())),
)
def test_while_plaud_does_not_answer_submits_few_become_unknown_and_the_rest_is_submitted_later(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, trouble: dict[str, Any]
) -> None:
    names = [f"{number:02}.wav" for number in range(30)]
    archive.add(*names)
    archive.list()
    outage = archive.plaud.inject({"match": {"kind": "submit"}, "times": 1000, **trouble})

    for try_number in (1, 2, 3):
        with pytest.raises(PlaudSubmitsPausedError, match="one succeeds"):
            archive.submit(try_number=try_number)

    unknown = [name for name, state in archive.states().items() if state == "unknown"]
    assert len(unknown) == breaker.FAILURES_TO_OPEN, "one is sent at a time until one is answered"
    assert outage.consumed == len(unknown)
    archive.plaud.state.faults.clear()
    let_one_try(monkeypatch)
    archive.submit(try_number=4)
    assert {state for name, state in archive.states().items() if name not in unknown} == {"processing"}
    assert max(archive.paid().values()) == 1


def test_trials_leave_nothing_unknown_while_plaud_answers_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it lasts."""
    archive.add(*(f"{number:02}.wav" for number in range(60)))
    archive.list()
    for kind in ("submit", "get"):
        archive.plaud.inject({"match": {"kind": kind}, "times": 1000, "action": "status", "status": 503})
    with pytest.raises(PlaudSubmitsPausedError):
        archive.submit()
    before = archive.states()
    assert "unknown" in before.values()

    for try_number in range(2, 6):
        let_one_try(monkeypatch)
        with pytest.raises((PlaudServerError, PlaudSubmitsPausedError)):
            archive.submit(try_number=try_number)

    assert len(archive.plaud.ledger(kind="get")) == 4
    assert archive.states() == before


def fails(transition: str, monkeypatch: pytest.MonkeyPatch, *, times: int, after: bool = False) -> list[str]:
    """Have a transition of the ledger fail so many times, before or after it is done; return the tries."""
    tried: list[str] = []
    real = getattr(Ledger, transition)

    def failing(ledger: Ledger, key: str, *arguments: Any, **named: Any) -> Any:
        tried.append(key)
        if len(tried) > times:
            return real(ledger, key, *arguments, **named)
        if after:
            real(ledger, key, *arguments, **named)
        raise PlaudWarehouseError("the ledger is away")

    monkeypatch.setattr(Ledger, transition, failing)
    return tried


# Fault rows 13, 37
@pytest.mark.parametrize(
    "fault",
    [{"action": "drop_after"}, {"action": "patch", "remove": ["transcriptionId"]}, {"action": "html"}],
)
def test_a_lost_answer_is_unknown_and_the_rest_goes_on(chunk: Archive, fault: dict[str, Any]) -> None:
    fault = {"match": {"kind": "submit", "body_contains": "b.wav"}, **fault}
    ordered = chunk.plaud.inject(fault)

    assert chunk.submit()["submitted"] == 2
    assert chunk.submit(try_number=2)["unknown_before"] == 1
    assert chunk.states() == {"a.wav": "processing", "b.wav": "unknown", "c.wav": "processing"}
    assert "may have accepted and billed it" in (chunk.entries()["b.wav"].error or "")
    assert ordered.consumed == 1
    assert sorted(chunk.posted()) == list(NAMES), "nothing was sent twice"


# Fault row 4
def test_refused_credentials_stop_it_and_give_the_claims_back(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = os.environ["AIRFLOW_CONN_PLAUD_DEFAULT"]
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", connection.replace("secret-key-canary", "another-key"))

    with pytest.raises(PlaudAuthenticationError):
        chunk.submit()

    assert chunk.plaud.summary()["unauthorized_401"] == 1, "one token request, whoever waits for it"
    entries = chunk.entries().values()
    assert [entry.is_released for entry in entries] == [True] * 3
    assert all("Check client id" in (entry.error or "") for entry in entries)
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", connection)
    chunk.list("second")
    assert chunk.submit("second")["submitted"] == 3, "nobody has to wait for a lease to end"


# Fault row 6
def test_tokens_that_are_always_rejected_leave_nothing_unknown(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "backoff", lambda *_: 0.0)
    chunk.plaud.inject({"match": {"kind": "submit"}, "times": None, "action": "reject_token"})

    with pytest.raises(PlaudTokenRejectedError) as stopped:
        chunk.submit()
    assert not isinstance(stopped.value, AirflowFailException)
    assert chunk.count_of_states() == {"claimed": 3}
    assert all(entry.is_released for entry in chunk.entries().values())


def test_a_quota_that_stays_exceeded_stops_it_and_may_be_retried(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Iterator[Any]:
        yield from ()
        raise PlaudRateLimitError("Plaud kept refusing the submit with 429. Nothing was accepted.")

    with monkeypatch.context() as busy:
        busy.setattr(calls, "submit_transcription", refused)
        with pytest.raises(PlaudRateLimitError) as stopped:
            chunk.submit()

    assert not isinstance(stopped.value, AirflowFailException)
    assert all(entry.is_released and "429" in (entry.error or "") for entry in chunk.entries().values())
    assert chunk.submit(try_number=2)["submitted"] == 3


@pytest.mark.parametrize("status", [402, 403, 404])
def test_a_refusal_of_the_client_is_not_taken_for_one_of_each_recording(chunk: Archive, status: int) -> None:
    chunk.plaud.inject({"match": {"kind": "submit"}, "times": None, "action": "status", "status": status})

    with pytest.raises(PlaudAccessError):
        chunk.submit()
    assert chunk.count_of_states() == {"claimed": 3}
    assert all(str(status) in (entry.error or "") for entry in chunk.entries().values())

    chunk.plaud.state.faults.clear()
    assert chunk.submit(try_number=2)["submitted"] == 3


# The storage


@pytest.fixture
def many(archive: Archive) -> Archive:
    """An archive of recordings that are listed."""
    archive.add(*(f"{number:02}.wav" for number in range(60)))
    archive.list()
    return archive


def refuse(archive: Archive, names: Iterable[str]) -> None:
    for name in names:
        match = {"kind": "submit", "body_contains": name}
        archive.plaud.inject({"match": match, "times": None, "action": "status", "status": 422})


@pytest.mark.parametrize("status", [400, 422])
def test_where_all_are_refused_alike_none_is_marked_as_failed(many: Archive, status: int) -> None:
    body = {"error": "UNKNOWN_FIELD"}
    many.plaud.inject(
        {"match": {"kind": "submit"}, "times": 1000, "action": "status", "status": status, "body": body}
    )

    for try_number in (1, 2, 3):
        with pytest.raises(PlaudAccessError, match="refused alike, and none accepted") as stopped:
            many.submit(try_number=try_number)
        assert stopped.value.status_code == status
    asked = len(many.plaud.ledger(kind="submit"))
    assert asked <= 3 * (send.REFUSED_ALIKE + send.CONCURRENCY - 1)
    assert set(many.states().values()) == {"claimed"}

    many.plaud.state.faults.clear()
    many.submit(try_number=4)
    assert set(many.states().values()) == {"processing"}
    assert max(many.paid().values()) == 1


def test_a_retry_goes_on_where_only_some_are_refused(many: Archive) -> None:
    bad = {f"{number:02}.wav" for number in range(send.REFUSED_ALIKE + send.CONCURRENCY)}
    refuse(many, bad)

    for try_number in range(1, 9):
        try:
            many.submit(try_number=try_number)
        except PlaudAccessError:
            continue
        break

    assert try_number <= 8
    states = many.states()
    assert {name for name, state in states.items() if state == "failed"} == bad
    assert {state for name, state in states.items() if name not in bad} == {"processing"}


def test_where_all_are_refused_alike_from_some_moment_on_none_is_marked_as_failed(many: Archive) -> None:
    many.plaud.inject(
        {"match": {"kind": "submit"}, "skip": 9, "times": None, "action": "status", "status": 422}
    )

    with pytest.raises(PlaudAccessError, match="none accepted in between"):
        many.submit()

    assert sorted(many.states().values()) == ["claimed"] * 51 + ["processing"] * 9


def test_what_was_sent_before_they_were_refused_does_not_make_it_their_fault(many: Archive) -> None:
    accepted = 20
    of_submits = {"match": {"kind": "submit"}}
    many.plaud.inject({**of_submits, "skip": accepted, "times": None, "action": "status", "status": 422})
    many.plaud.inject({**of_submits, "skip": accepted - 1, "action": "delay", "seconds": 2})

    with pytest.raises(PlaudAccessError, match="none accepted in between"):
        many.submit()

    assert sorted(many.states().values()) == ["claimed"] * 40 + ["processing"] * accepted


def test_what_is_refused_among_others_is_refused_for_what_it_is(many: Archive) -> None:
    bad = {f"{number:02}.wav" for number in range(0, 60, 3)}
    refuse(many, bad)

    many.submit()

    assert {name for name, state in many.states().items() if state == "failed"} == bad


def test_few_that_are_refused_alike_are_refused_for_what_they_are(chunk: Archive) -> None:
    chunk.plaud.inject({"match": {"kind": "submit"}, "times": 1000, "action": "status", "status": 422})

    chunk.submit()

    assert set(chunk.states().values()) == {"failed"}


def test_what_cannot_be_read_now_is_left_to_a_retry_and_all_others_are_submitted(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plan.examine

    def examine(source: Any, **limits: Any) -> Any:
        if source.audio.uri.endswith("b.wav"):
            raise PlaudStorageError("b.wav: the disk is slow")
        return real(source, **limits)

    with monkeypatch.context() as slow:
        slow.setattr(plan, "examine", examine)
        with pytest.raises(PlaudStorageError, match=r"1 of 3 recordings .*the disk is slow.*a retry") as told:
            chunk.submit()

    assert not isinstance(told.value, AirflowFailException), "it is retried"
    assert chunk.paid() == {"a.wav": 1, "c.wav": 1}
    entry = chunk.entries()["b.wav"]
    assert (entry.is_released, entry.error) == (True, "b.wav: the disk is slow")
    assert chunk.submit(try_number=2)["submitted"] == 1
    assert chunk.paid() == dict.fromkeys(NAMES, 1)


def test_what_cannot_be_signed_now_is_left_to_a_retry_and_all_others_are_submitted(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalFile.url

    def url(file: LocalFile) -> Any:
        if file.audio.uri.endswith("b.wav"):
            raise PlaudStorageError("b.wav: not signed now")
        return real(file)

    with monkeypatch.context() as away:
        away.setattr(LocalFile, "url", url)
        with pytest.raises(PlaudStorageError, match="not signed now"):
            chunk.submit()

    assert chunk.paid() == {"a.wav": 1, "c.wav": 1}
    assert chunk.entries()["b.wav"].error == "b.wav: not signed now"
    assert chunk.submit(try_number=2)["submitted"] == 1


def test_what_cannot_even_be_identified_leaves_no_row_behind(archive: Archive) -> None:
    archive.add("a.wav")
    loop = archive.folder / "b.wav"
    loop.symlink_to(loop)
    archive.list()

    with pytest.raises(PlaudStorageError, match="1 of 2 recordings"):
        archive.submit()
    assert archive.states() == {"a.wav": "processing"}

    loop.unlink()
    archive.add("b.wav")
    archive.submit(try_number=2)
    assert archive.states() == {"a.wav": "processing", "b.wav": "processing"}


def test_a_missing_connection_fails_at_once_and_claims_nothing(archive: Archive, s3: S3Server) -> None:
    found = [Found(f"s3://aws_typo@calls/{name}", "v1", 100, None) for name in NAMES]
    write_manifest(found, str(archive.results / "manifests" / "run"))

    with pytest.raises(PlaudConfigurationError, match="'aws_typo', which does not exist"):
        archive.submit()
    assert archive.entries() == {}
    assert archive.plaud.ledger() == []


def test_local_recordings_that_are_served_nowhere_are_one_error_and_not_a_row_each(chunk: Archive) -> None:
    with pytest.raises(PlaudInputError, match="public_urls"):
        chunk.submit(public_urls={"/elsewhere": "https://files.example"})
    assert chunk.entries() == {}


def test_recordings_of_one_storage_share_its_connection(
    archive: Archive, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plaud_provider.storage.bucket import Bucket

    opened: list[Bucket] = []
    real = Bucket._opened
    monkeypatch.setattr(Bucket, "_opened", lambda bucket: opened.append(bucket) or real(bucket))
    archive.add(*NAMES)
    for name in NAMES:
        s3.put(name, (archive.folder / name).read_bytes())
    listed = list_recordings("s3://aws_calls@calls/")
    write_manifest(listed, str(archive.results / "manifests" / "run"))
    opened.clear()

    assert archive.submit()["submitted"] == 3
    assert len(opened) == 1


# The ledger


def test_what_another_task_has_taken_over_meanwhile_is_not_sent(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Ledger.submitting
    taken: list[str] = []

    def submitting(ledger: Ledger, key: str, *arguments: Any) -> bool:
        if not taken:
            # As if this task had slept for longer than its lease.
            taken.append(key)
            chunk.warehouse.run(
                "update plaud_submissions set claimed_at = '2020-01-01 00:00:00.000000', "
                f"lease_until = '2020-01-01 00:10:00.000000' where recording_key = '{key}'"
            )
            name = next(name for name, known in chunk.keys().items() if known == key)
            chunk.hold(name)
        return real(ledger, key, *arguments)

    monkeypatch.setattr(Ledger, "submitting", submitting)

    with pytest.raises(TaskDeferred) as deferred:
        chunk.submit()
    assert deferred.value.kwargs is not None
    assert deferred.value.kwargs["before"]["submitted"] == 2
    assert len(chunk.posted()) == 2
    [theirs] = [entry for entry in chunk.entries().values() if entry.owner == STRANGER]
    assert theirs.recording_key == taken[0]


@pytest.mark.usefixtures("no_pauses")
def test_an_answer_is_offered_to_a_ledger_that_is_away_until_it_is_back(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fails("processing", monkeypatch, times=7)

    assert chunk.submit()["submitted"] == 3
    assert len(tried) == 10
    assert chunk.count_of_states() == {"processing": 3}


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("after", [False, True], ids=["not noted", "noted"])
def test_a_ledger_that_is_away_before_a_submit_leaves_nothing_unknown(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    with monkeypatch.context() as away:
        fails("submitting", away, times=99, after=after)
        with pytest.raises(PlaudWarehouseError):
            chunk.submit()

    assert chunk.posted() == []
    assert chunk.count_of_states() == {"claimed": 3}
    assert chunk.submit(try_number=2)["submitted"] == 3, "a retry has its claims at once"


@pytest.mark.usefixtures("no_pauses")
def test_a_submit_that_was_certainly_not_accepted_is_not_left_as_sent(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"action": "status", "status": 429, "headers": {"Retry-After": "0"}}
    chunk.plaud.inject({"match": {"kind": "submit"}, "times": 2, **answer})
    tried = fails("not_accepted", monkeypatch, times=3)

    assert chunk.submit()["submitted"] == 3
    assert len(tried) == 5
    assert chunk.paid() == dict.fromkeys(NAMES, 1)


def test_an_error_of_our_own_lets_what_is_under_way_end(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add(*(f"{number:02}.wav" for number in range(12)))
    archive.list()
    archive.plaud.inject({"match": {"kind": "submit"}, "times": None, "action": "delay", "seconds": 0.3})
    real, noted = memory.LedgerMemory.sending, count(1)

    def sending(row: memory.LedgerMemory) -> bool:
        # By then others are under way: the first alone was answered.
        if next(noted) == 4:
            raise ZeroDivisionError
        return real(row)

    monkeypatch.setattr(memory.LedgerMemory, "sending", sending)

    with pytest.raises(ZeroDivisionError):
        archive.submit()
    sent = len(archive.posted())
    assert 3 <= sent < 12
    assert archive.count_of_states() == {"claimed": 12 - sent, "processing": sent}


# Fault row 57
def test_a_worker_that_is_killed_before_it_sends_leaves_what_a_retry_takes(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as kill:
        kill.setattr(send.Sender, "send", killed)
        with pytest.raises(Killed):
            chunk.submit()
    assert chunk.count_of_states() == {"claimed": 3}

    assert chunk.submit(try_number=2)["submitted"] == 3


def test_leases_are_renewed_while_submits_wait_for_their_turn(
    chunk: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "RENEW_SECONDS", 0.05)
    chunk.plaud.inject({"match": {"kind": "submit"}, "action": "delay", "seconds": 0.5})
    renewed: list[int] = []
    real = Ledger.renew

    def renew(ledger: Ledger, *arguments: Any) -> int:
        renewed.append(1)
        if len(renewed) == 1:
            raise PlaudWarehouseError("the ledger is away")
        return real(ledger, *arguments)

    monkeypatch.setattr(Ledger, "renew", renew)

    assert chunk.submit()["submitted"] == 3
    assert len(renewed) > 1, "also after one that failed"


# Secrets


def test_no_signature_of_ours_anywhere(
    archive: Archive, s3: S3Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    archive.add(*NAMES)
    for name in NAMES:
        s3.put(name, (archive.folder / name).read_bytes())
    write_manifest(list_recordings("s3://aws_calls@calls/"), str(archive.results / "manifests" / "run"))
    for name, status in {"b.wav": 422, "c.wav": 500}.items():
        match = {"kind": "submit", "body_contains": name}
        archive.plaud.inject({"match": match, "action": "status", "status": status})

    with caplog.at_level("DEBUG"):
        counts = archive.submit()

    assert archive.states() == {"a.wav": "processing", "b.wav": "failed", "c.wav": "unknown"}
    rows = archive.warehouse.rows("select * from plaud_submissions")
    files = "".join(path.read_text() for path in Path(archive.results).rglob("*.jsonl"))
    shown = f"{caplog.text}{capfd.readouterr()}{rows}{files}{counts}"
    for secret in ("X-Amz-Signature", "storage-secret-canary", "secret-key-canary"):
        assert secret not in shown
    assert State.UNKNOWN in {entry.state for entry in archive.entries().values()}
