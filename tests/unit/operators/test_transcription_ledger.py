"""The submit of one recording with a ledger: paid once over all runs and DAGs, whatever Airflow forgets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudAuthenticationError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudRequestError,
    PlaudSubmitOutcomeUnknownError,
)
from plaud_provider.ledger.ledger import Entry, Ledger, Owner, Recording, State, open_ledger
from plaud_provider.operators.chunk import HELD_SECONDS
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.recordings.identity import recording_key
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.submit import task_memory
from tests.unit.operators.archives import STRANGER, Archive
from tests.unit.tasks import TaskStateStore, task_context
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse

SIGNATURE = "canary-signature-6f1d"
URL = f"https://calls.s3.amazonaws.com/2024/call%201.mp3?X-Amz-Signature={SIGNATURE}"
UNSIGNED = "https://calls.s3.amazonaws.com/2024/call%201.mp3"
KEY = recording_key(
    AudioReference(URL),
    version=None,
    language=None,
    speaker_diarization=False,
    region="us",
    client_id="client",
)


@pytest.fixture
def warehouse(any_archive: Archive) -> Warehouse:
    return any_archive.warehouse


def submit(store: TaskStateStore | None, **told: Any) -> str:
    arguments = {"audio_url": URL, "ledger_conn_id": CONN_ID}
    instance = {name: told.pop(name) for name in ("dag_id", "run_id", "try_number") if name in told}
    task = SubmitTranscriptionOperator(task_id="submit", **{**arguments, **told})
    return task.execute(task_context(store, task_id="submit", **instance))


def entry(warehouse: Warehouse) -> Entry:
    """Return the ledger's one row."""
    [(key,)] = warehouse.rows("select recording_key from plaud_submissions")
    return open_ledger(CONN_ID).entries([key])[key]


def paid(plaud: EmulatorServer) -> int:
    return int(plaud.summary()["submits_accepted"])


def lost(plaud: EmulatorServer) -> None:
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "drop_after"})


def test_it_is_a_row_of_the_ledger(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    transcription_id = submit(TaskStateStore(), language="en", speaker_diarization=True)

    row = entry(warehouse)
    assert (row.state, row.transcription_id, row.audio_uri) == (State.PROCESSING, transcription_id, UNSIGNED)
    assert (row.region, row.client_id, row.language, row.speaker_diarization) == ("us", "client", "en", True)
    assert row.owner == Owner("dag", "run", "submit", -1, 1)
    assert row.submitted_at is not None
    assert row.accepted_at is not None
    assert SIGNATURE not in repr(warehouse.rows("select * from plaud_submissions"))


def test_two_dag_runs_pay_once(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    first = submit(TaskStateStore(), run_id="monday")
    second = submit(TaskStateStore(), run_id="tuesday")
    other = submit(TaskStateStore(), dag_id="other_dag")

    assert first == second == other
    assert paid(plaud) == 1
    assert entry(warehouse).owner.run_id == "monday"


def test_the_parameters_that_are_named_tell_recordings_apart(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    url = "https://pbx.example/get.wav?call={}&leg={}&token=abcdef"

    def told(call: int, leg: int, params: Any) -> str:
        return submit(TaskStateStore(), audio_url=url.format(call, leg), identity_params=params)

    first = told(1, 1, ["call"])
    assert told(1, 2, ["call"]) == told(1, 3, "['call']") == told(1, 4, "call") == first
    assert told(2, 1, ["call"]) != first
    assert paid(plaud) == 2
    assert told(1, 1, None) != told(1, 2, "None")
    assert told(3, 3, []) == told(4, 4, "[]")
    assert paid(plaud) == 5


def test_an_id_of_the_users_tells_recordings_apart_whose_links_do_not(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    def told(link: str, recording_id: Any) -> str:
        url = f"https://v5.airtableusercontent.com/v3/u/38/38/{link}"
        return submit(TaskStateStore(), audio_url=url, recording_id=recording_id)

    first = told("one", "attHd9sanAvr8PwGk")

    assert told("another", "attHd9sanAvr8PwGk") == first
    assert told("one", "attOfSomethingElse") != first
    assert paid(plaud) == 2
    for unset in ("", "None", None):
        assert told("one", unset) != first
    assert paid(plaud) == 3


def test_what_has_landed_is_attached_to(plaud: EmulatorServer, archive: Archive) -> None:
    first = submit(TaskStateStore())
    open_ledger(CONN_ID).landed([first], region="us")

    assert submit(TaskStateStore(), run_id="next") == first
    assert paid(plaud) == 1


def test_the_template_of_an_unset_value_is_no_ledger(plaud: EmulatorServer, archive: Archive) -> None:
    for unset in ("", "None", None):
        submit(TaskStateStore(), ledger_conn_id=unset)

    assert archive.warehouse.is_untouched
    assert paid(plaud) == 3


# Fault row 69
def test_a_state_store_that_was_emptied_before_a_retry_does_not_matter(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    first = submit(TaskStateStore())

    assert submit(TaskStateStore(), try_number=2) == first
    assert len(plaud.ledger(kind="submit")) == 1


# Fault row 69
def test_a_lost_answer_stays_unknown_although_the_state_store_was_emptied(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    lost(plaud)
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(TaskStateStore())

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="on_unknown_submit='resubmit'"):
        submit(TaskStateStore(), try_number=2)
    assert entry(warehouse).state is State.UNKNOWN
    assert paid(plaud) == 1


def test_without_a_state_store_a_retry_has_the_ledgers_answer(
    plaud: EmulatorServer, archive: Archive
) -> None:
    first = submit(None)

    assert submit(None, try_number=2) == first
    assert paid(plaud) == 1


def test_without_a_state_store_a_retry_submits_what_was_not_sent(
    plaud: EmulatorServer, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", plaud.airflow_connection.replace("canary", "wrong"))
        with pytest.raises(PlaudAuthenticationError):
            submit(None)
    assert entry(archive.warehouse).is_released

    submit(None, try_number=2)
    assert paid(plaud) == 1


@pytest.mark.parametrize("away", [AirflowException, RuntimeError], ids=str)
def test_an_id_that_only_the_ledger_has_is_attached_to(
    plaud: EmulatorServer, archive: Archive, monkeypatch: pytest.MonkeyPatch, away: type[Exception]
) -> None:
    monkeypatch.setattr(task_memory, "STATE_STORE_SECONDS", 0)
    store = TaskStateStore()

    def refuse(key: str, value: Any, **_: Any) -> None:
        if value["state"] == "accepted":
            raise away("execution API is down")
        TaskStateStore.set(store, key, value)

    store.set = refuse  # type: ignore[method-assign]
    first = submit(store)

    assert submit(store, try_number=2) == first, "the state store still says that it is being sent"


# What nobody knows


def test_a_lost_answer_is_unknown_to_other_runs_too(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    lost(plaud)
    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="the answer was lost"):
        submit(TaskStateStore(), run_id="monday")
    assert entry(warehouse).state is State.UNKNOWN

    store = TaskStateStore()
    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="console or bill") as told:
        submit(store, run_id="tuesday")
    assert isinstance(told.value, AirflowFailException)
    assert str(told.value).count("is unknown") == 1, "said once"
    assert store.rows == {}, "this run has sent nothing"
    assert paid(plaud) == 1


def test_what_another_run_has_cleared_up_is_attached_to(plaud: EmulatorServer, archive: Archive) -> None:
    lost(plaud)
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(TaskStateStore(), run_id="monday")
    store = TaskStateStore()
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(store, run_id="tuesday")
    again = submit(TaskStateStore(), run_id="wednesday", on_unknown_submit="resubmit")

    assert submit(store, run_id="tuesday", try_number=2) == again
    assert paid(plaud) == 2


def test_on_unknown_submit_resubmit_sends_it_again(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    lost(plaud)
    transcription_id = submit(TaskStateStore(), on_unknown_submit="resubmit")

    assert (entry(warehouse).state, entry(warehouse).transcription_id) == (State.PROCESSING, transcription_id)
    assert paid(plaud) == 2
    assert submit(TaskStateStore(), run_id="next", on_unknown_submit="resubmit") == transcription_id
    assert paid(plaud) == 2


def test_a_clear_with_on_unknown_submit_resubmit_sends_it_again(
    plaud: EmulatorServer, archive: Archive
) -> None:
    store = TaskStateStore()
    lost(plaud)
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(store)

    assert submit(store, try_number=2, on_unknown_submit="resubmit")
    assert paid(plaud) == 2


def test_what_was_unknown_before_there_was_a_ledger_is_unknown_to_all(
    plaud: EmulatorServer, archive: Archive
) -> None:
    store = TaskStateStore()
    lost(plaud)
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(store, ledger_conn_id=None)

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="got no usable answer"):
        submit(store, try_number=2)
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(TaskStateStore(), run_id="next")
    assert paid(plaud) == 1


# What others are about to submit


def hold() -> None:
    """Have another task claim the recording that ``submit`` submits."""
    open_ledger(CONN_ID).claim([Recording(KEY, UNSIGNED, "us", "client")], STRANGER)


def test_what_another_task_is_about_to_submit_is_waited_for_without_a_worker(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    hold()
    before = datetime.now(tz=UTC)
    with pytest.raises(TaskDeferred) as deferred:
        submit(TaskStateStore())
    after = datetime.now(tz=UTC)

    trigger = deferred.value.trigger
    assert isinstance(trigger, DateTimeTrigger)
    assert before <= trigger.moment - timedelta(seconds=HELD_SECONDS) <= after
    assert plaud.ledger() == []

    ledger = open_ledger(CONN_ID)
    ledger.submitting(KEY, STRANGER)
    ledger.processing(Recording(KEY, UNSIGNED, "us", "client"), STRANGER, "txn_theirs", submitted_at=before)
    task = SubmitTranscriptionOperator(task_id="submit", audio_url=URL, ledger_conn_id=CONN_ID)
    resumed = task.resume_execution(
        deferred.value.method_name, {"event": None}, task_context(TaskStateStore(), task_id="submit")
    )
    assert resumed == "txn_theirs"
    assert plaud.ledger() == []


def test_what_another_task_takes_over_at_the_last_moment_is_not_sent(
    plaud: EmulatorServer, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger.submitting

    def submitting(ledger: Ledger, key: str, *arguments: Any) -> bool:
        ledger.release(arguments[0])
        hold()
        return real(ledger, key, *arguments)

    monkeypatch.setattr(Ledger, "submitting", submitting)

    with pytest.raises(AirflowException, match=r"taken over .*Nothing was sent from here") as told:
        submit(TaskStateStore())
    assert not isinstance(told.value, AirflowFailException), "a retry attaches"
    assert plaud.ledger(kind="submit") == []
    assert entry(warehouse).owner == STRANGER


# What ended badly before


def test_what_was_refused_before_is_told_and_not_sent_again(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "status", "status": 422})
    with pytest.raises(PlaudRequestError):
        submit(TaskStateStore(), run_id="monday")
    assert (entry(warehouse).state, entry(warehouse).transcription_id) == (State.FAILED, None)

    with pytest.raises(PlaudInputError, match=r"'monday' of DAG 'dag'.*422.*resubmit=\['failed'\]"):
        submit(TaskStateStore(), run_id="tuesday")
    assert len(plaud.ledger(kind="submit")) == 1
    assert submit(TaskStateStore(), run_id="tuesday", resubmit="['failed']")
    assert paid(plaud) == 1


def test_what_failed_at_plaud_is_told_by_whoever_waits_for_it(
    plaud: EmulatorServer, archive: Archive
) -> None:
    first = submit(TaskStateStore(), run_id="monday")
    open_ledger(CONN_ID).failed({first: "no speech"}, region="us")

    assert submit(TaskStateStore(), run_id="tuesday") == first
    assert submit(TaskStateStore(), run_id="wednesday", resubmit=["failed"]) != first


def test_what_has_expired_is_paid_again_only_when_told(plaud: EmulatorServer, archive: Archive) -> None:
    first = submit(TaskStateStore(), run_id="monday")
    open_ledger(CONN_ID).expired({first: "Plaud does not know it any more"}, region="us")
    plaud.inject({"match": {"kind": "get"}, "times": 2, "action": "status", "status": 404})

    with pytest.raises(PlaudNotFoundError, match=rf"{first} by run 'monday'.*resubmit=\['expired'\]"):
        submit(TaskStateStore(), run_id="tuesday")
    assert submit(TaskStateStore(), run_id="tuesday", resubmit=["expired"]) != first


@pytest.mark.parametrize("resubmit", [[], ["expired"]])
def test_what_plaud_knows_after_all_is_attached_to(
    plaud: EmulatorServer, archive: Archive, resubmit: list[str]
) -> None:
    first = submit(TaskStateStore(), run_id="monday")
    open_ledger(CONN_ID).expired({first: "a proxy without a route"}, region="us")

    assert submit(TaskStateStore(), run_id="tuesday", resubmit=resubmit) == first
    assert (paid(plaud), entry(archive.warehouse).state) == (1, State.PROCESSING)


def long_ago(archive: Archive) -> None:
    """Have everything been submitted eight days ago."""
    then = (datetime.now(tz=UTC) - timedelta(days=8)).strftime("%Y-%m-%d %H:%M:%S.%f")
    archive.warehouse.run(f"update plaud_submissions set submitted_at = '{then}'")


def test_what_nobody_has_landed_in_time_is_asked_for_before_it_is_attached_to(
    plaud: EmulatorServer, archive: Archive
) -> None:
    first = submit(TaskStateStore(), run_id="monday")
    long_ago(archive)

    assert submit(TaskStateStore(), run_id="next week") == first, "Plaud still knows it"

    plaud.reset()
    with pytest.raises(PlaudNotFoundError, match=rf"{first} by run 'monday'.*resubmit=\['expired'\]"):
        submit(TaskStateStore(), run_id="next month")
    assert entry(archive.warehouse).state is State.EXPIRED


def test_what_nobody_has_landed_in_time_is_submitted_again_at_once_when_told(
    plaud: EmulatorServer, archive: Archive
) -> None:
    first = submit(TaskStateStore(), run_id="monday")
    long_ago(archive)
    plaud.reset()

    assert submit(TaskStateStore(), run_id="next month", resubmit=["expired"]) != first
    assert (paid(plaud), entry(archive.warehouse).state) == (1, State.PROCESSING)


def test_what_may_not_be_submitted_again_is_told(plaud: EmulatorServer, archive: Archive) -> None:
    with pytest.raises(PlaudInputError, match="resubmit: 'unknown' is none of expired, failed"):
        submit(TaskStateStore(), resubmit=["unknown"])
    assert plaud.ledger() == []


# Fault row 40
def test_another_region_is_another_recording(
    plaud: EmulatorServer, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TaskStateStore()
    first = submit(store)
    connection = plaud.airflow_connection.replace('"us"', '"eu"')
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", connection)

    assert submit(store, try_number=2) != first
    assert sorted(archive.warehouse.rows("select region, state from plaud_submissions")) == [
        ("eu", "processing"),
        ("us", "processing"),
    ]


# Fault row 63
def test_a_mapped_list_that_changed_submits_the_right_file(plaud: EmulatorServer, archive: Archive) -> None:
    store = TaskStateStore()
    first = submit(store, audio_url="https://files.example/a.wav")
    # Index 0 of the list is another file now, and its task is cleared.
    second = submit(store, try_number=2, audio_url="https://files.example/b.wav")

    assert first != second
    assert submit(store, try_number=3, audio_url="https://files.example/a.wav") == first
    sent = [row["body"]["audioUrl"] for row in plaud.ledger(kind="submit")]
    assert sent == ["https://files.example/a.wav", "https://files.example/b.wav"]


def test_every_argument_is_templated() -> None:
    names = [name for name in SubmitTranscriptionOperator.template_fields if name != "audio_url"]
    arguments = {name: f"{{{{ '{name}' }}}}" for name in names}
    with DAG("d", schedule=None):
        task = SubmitTranscriptionOperator(task_id="submit", audio_url=URL, **arguments)  # type: ignore[arg-type]
    task.render_template_fields({})

    assert {name: getattr(task, name) for name in names} == {name: name for name in names}


# The client's trouble


@pytest.mark.parametrize("status", [402, 403, 404, 405])
def test_what_is_the_clients_trouble_is_no_mark_on_the_recording(
    plaud: EmulatorServer, warehouse: Warehouse, status: int
) -> None:
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "status", "status": status})
    with pytest.raises(PlaudAccessError):
        submit(TaskStateStore(), run_id="monday")
    assert entry(warehouse).is_released
    assert str(status) in (entry(warehouse).error or "")

    assert submit(TaskStateStore(), run_id="tuesday").startswith("txn_"), "the next run submits it"
    assert paid(plaud) == 1


# The ledger's own trouble


@pytest.mark.parametrize("away", [AirflowException, RuntimeError], ids=str)
def test_a_state_store_that_is_away_before_the_submit_leaves_nothing_unknown(
    plaud: EmulatorServer, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, away: type[Exception]
) -> None:
    monkeypatch.setattr(task_memory, "STATE_STORE_SECONDS", 0)
    store = TaskStateStore()

    def refuse(key: str, value: Any, **_: Any) -> None:
        raise away("execution API is down")

    with monkeypatch.context() as down:
        down.setattr(store, "set", refuse)
        with pytest.raises(away):
            submit(store)
    assert plaud.ledger(kind="submit") == []
    assert entry(warehouse).state is State.CLAIMED

    assert submit(store, try_number=2)
    assert paid(plaud) == 1
