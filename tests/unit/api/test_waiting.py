from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.limits import RETENTION
from plaud_provider.api.models import Status, Transcription
from plaud_provider.api.waiting import Wait, WaitResult
from plaud_provider.exceptions import (
    PlaudAuthenticationError,
    PlaudCertificateError,
    PlaudConfigurationError,
    PlaudConnectionError,
    PlaudError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudStorageError,
    PlaudTokenRejectedError,
    PlaudTriggerEventError,
)

START = 1_800_000_000.0
DAY = 86_400.0


def wait_for(*ids: str) -> Wait:
    return Wait(ids, started_at=START, deadline=START + DAY)


def seen(transcription_id: str, status: Status = Status.COMPLETED, **fields: Any) -> Transcription:
    return Transcription(transcription_id, status, fields.pop("word", status.value), **fields)


def test_a_wait_goes_on_until_all_are_final() -> None:
    wait = wait_for("a", "b")

    assert wait.on_transcription(seen("a"), now=START)
    assert not wait.on_transcription(seen("b", Status.PROCESSING), now=START)
    assert wait.result(now=START + 5) is None
    assert wait.on_transcription(seen("b", Status.FAILED, error="no sound"), now=START)
    assert wait.result(now=START + 6) == WaitResult("done", total=2, completed=1, failed={"b": "no sound"})


def test_ids_that_are_given_twice_count_once() -> None:
    wait = wait_for("a", "b", "a")

    assert (wait.total, wait.pending) == (2, ("a", "b"))


def test_at_the_deadline_it_ends_and_says_what_is_left() -> None:
    wait = wait_for("a", "b", "c")
    wait.on_transcription(seen("a"), now=START)
    wait.on_transcription(seen("b", Status.FAILED, error="no sound"), now=START)

    assert wait.result(now=START + DAY - 0.001) is None
    result = wait.result(now=START + DAY)

    assert result is not None
    assert (result.outcome, result.pending) == ("timeout", ("c",))
    assert "1/3 completed, 1 failed, oldest 24.0 h" in result.message
    assert "2027-01-16 08:00:00+00:00" in result.message
    assert "nothing is paid twice" in result.message


def test_what_is_final_at_the_deadline_is_done_and_not_too_late() -> None:
    wait = wait_for("a")
    wait.on_transcription(seen("a"), now=START)

    result = wait.result(now=START + 2 * DAY)

    assert result is not None
    assert result.outcome == "done"


def test_a_timeout_tells_of_the_last_look_that_failed() -> None:
    wait = wait_for("a")
    wait.on_error("a", PlaudConnectionError("the host is down"), now=START + 5)

    result = wait.result(now=START + DAY)

    assert result is not None
    assert "The last look failed: the host is down" in result.message


def test_a_timeout_does_not_tell_of_trouble_that_has_passed() -> None:
    wait = wait_for("a")
    wait.on_error("a", PlaudConnectionError("the host is down"), now=START + 5)
    wait.on_transcription(seen("a", Status.PROCESSING), now=START)

    result = wait.result(now=START + DAY)

    assert result is not None
    assert "the host is down" not in result.message


def test_what_may_pass_never_ends_a_wait() -> None:
    wait = wait_for("a")

    assert not wait.on_error("a", PlaudConnectionError("down"), now=START + DAY - 1)
    assert wait.pending == ("a",)


PASSING = [
    PlaudConnectionError("down"),
    PlaudServerError("503", status_code=503),
    PlaudServerError("a page", status_code=404),
    PlaudRateLimitError("429", status_code=429),
    *(PlaudRequestError("refused", status_code=status) for status in (402, 407)),
    PlaudRedirectError("307", status_code=307),
    PlaudStorageError("away"),
]
ABOUT_ONE = [
    PlaudNotFoundError("gone", status_code=404),
    *(PlaudRequestError("refused", status_code=status) for status in (400, 403, 409, 422, 451)),
    PlaudResponseError("segments: not a list"),
]


def looks_until_given_up(
    wait: Wait, error: PlaudError, *, every: float, begin: float = START + 61, answered: str | None = None
) -> int:
    """Return how many looks at a in a row it takes; a hundred stand for never."""
    for number in range(100):
        if wait.on_error("a", error, now=begin + number * every):
            return number + 1
        if answered is not None:
            wait.on_transcription(seen(answered, Status.PROCESSING), now=begin + number * every)
    return 100


@pytest.mark.parametrize("error", PASSING)
def test_what_passes_by_itself_never_ends_a_wait_however_often(error: PlaudError) -> None:
    assert looks_until_given_up(wait_for("a"), error, every=600.0) == 100


@pytest.mark.parametrize("error", ABOUT_ONE)
def test_what_is_about_one_is_confirmed_over_minutes_and_the_others_go_on(error: PlaudError) -> None:
    wait = wait_for("a", "b")

    assert not wait.on_error("a", error, now=START + 61), "one look proves nothing"
    looks = looks_until_given_up(wait, error, every=30.0, answered="b")

    assert 3 <= looks < 100
    assert list(wait.failed) == ["a"]
    assert wait.pending == ("b",)
    is_missing = isinstance(error, PlaudNotFoundError)
    assert (wait.missing == ["a"], "a" in wait.given_up) == (is_missing, not is_missing)
    assert WaitResult.from_event(wait.partial().to_event()).given_up == wait.given_up


@pytest.mark.parametrize("error", ABOUT_ONE)
def test_many_looks_within_seconds_confirm_nothing(error: PlaudError) -> None:
    assert looks_until_given_up(wait_for("a", "b"), error, every=1.0, answered="b") == 100


@pytest.mark.parametrize("error", ABOUT_ONE[1:])
def test_what_all_are_answered_is_the_trouble_of_the_client_and_ends_no_wait(error: PlaudError) -> None:
    """A firewall's 403 in JSON."""
    wait = wait_for("a", "b")
    wait.on_transcription(seen("a", Status.PROCESSING), now=START)
    for number in range(100):
        assert not wait.on_error("a", error, now=START + 61 + number * 120)
        assert not wait.on_error("b", error, now=START + 62 + number * 120)

    result = wait.result(now=START + DAY)

    assert result is not None
    assert (result.outcome, result.pending) == ("timeout", ("a", "b"))
    assert "The last look failed" in result.message


def test_404_for_all_is_taken_for_an_outage_for_two_hours() -> None:
    """A gateway's "no route" in JSON."""
    wait, gone = wait_for("a", "b"), PlaudNotFoundError("gone", status_code=404)
    for number in range(60):
        assert not wait.on_error("a", gone, now=START + 61 + number * 120)
        assert not wait.on_error("b", gone, now=START + 62 + number * 120)

    assert wait.on_error("a", gone, now=START + 61 + 7_200)

    assert wait.missing == ["a"]


@pytest.mark.parametrize("error", ABOUT_ONE)
def test_once_others_are_answered_again_what_is_still_refused_is_given_up(error: PlaudError) -> None:
    wait = wait_for("a", "b")
    for number in range(10):
        assert not wait.on_error("a", error, now=START + 61 + number * 120)
    wait.on_transcription(seen("b"), now=START + 1_200)

    assert wait.on_error("a", error, now=START + 3_600)


@pytest.mark.parametrize("before", [-5, 5])
def test_the_last_one_is_given_up_if_the_others_were_answered_at_the_same_time(before: int) -> None:
    """Several are looked at at once, and the answers may come in any order."""
    wait, refused = wait_for("a", "b"), PlaudRequestError("refused", status_code=403)
    assert not wait.on_error("a", refused, now=START + 61)
    wait.on_transcription(seen("b"), now=START + 61 - before)

    assert looks_until_given_up(wait, refused, every=30.0, begin=START + 91) < 100


def test_what_two_are_answered_differently_is_about_them() -> None:
    wait = wait_for("a", "b")
    for number in range(6):
        wait.on_error("a", PlaudRequestError("refused", status_code=403), now=START + number * 60)
        wait.on_error("b", PlaudRequestError("refused", status_code=422), now=START + number * 60)

    assert list(wait.given_up) == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "is_given_up"),
    [
        *((PlaudRequestError("refused", status_code=status), False) for status in (403, 405, 451)),
        *((PlaudRequestError("refused", status_code=status), True) for status in (200, 400, 409, 422)),
        (PlaudResponseError("segments: not a list"), True),
        (PlaudNotFoundError("gone", status_code=410), True),
    ],
)
def test_of_the_only_one_the_status_tells_whose_trouble_it_is(error: PlaudError, is_given_up: bool) -> None:
    wait = wait_for("a", "b")
    wait.on_transcription(seen("b"), now=START)

    assert (looks_until_given_up(wait, error, every=120.0) < 100) is is_given_up


@pytest.mark.parametrize("error", ABOUT_ONE)
def test_an_answer_in_between_begins_it_anew(error: PlaudError) -> None:
    wait = wait_for("a")
    for number in range(50):
        assert not wait.on_error("a", error, now=START + 61 + number * 240)
        wait.on_transcription(seen("a", Status.PROCESSING), now=START)


def test_what_plaud_has_known_is_not_soon_taken_for_gone() -> None:
    fresh, known = wait_for("a"), wait_for("a")
    known.on_transcription(seen("a", Status.PROCESSING), now=START)
    gone = PlaudNotFoundError("gone", status_code=404)

    assert looks_until_given_up(fresh, gone, every=60.0) * 2 < looks_until_given_up(known, gone, every=60.0)


def test_what_plaud_keeps_no_longer_is_gone_at_once() -> None:
    submitted_at = START - RETENTION.total_seconds() - 1

    assert wait_for("a").on_error("a", PlaudNotFoundError("gone"), now=START + 61, submitted_at=submitted_at)


@pytest.mark.parametrize("submitted_at", [START, START + 200])
def test_within_a_minute_of_the_submit_plaud_may_not_know_it_yet(submitted_at: float) -> None:
    """Whatever the two clocks say."""
    wait = wait_for("a")
    for number in range(100):
        assert not wait.on_error(
            "a", PlaudNotFoundError("gone"), now=submitted_at + number * 0.5, submitted_at=submitted_at
        )
    assert wait.troubles.by_id == {}


def test_a_submit_that_seems_to_lie_a_little_ahead_is_fresh() -> None:
    """Another host's clock may be ahead of this one's."""
    wait = wait_for("a")

    for after in range(0, 101, 10):
        now = START + 61 + after
        assert not wait.on_error("a", PlaudNotFoundError("gone"), now=now, submitted_at=START + 61 + 50)

    assert wait.troubles.by_id == {}


def test_a_submit_that_seems_to_lie_hours_ahead_is_not_fresh_for_hours() -> None:
    wait = wait_for("a")

    ends = [
        wait.on_error("a", PlaudNotFoundError("gone"), now=START + 61 + after, submitted_at=START + 7_200)
        for after in range(0, 601, 100)
    ]

    assert any(ends)
    assert wait.missing == ["a"]


@pytest.mark.parametrize(
    ("kind", "seconds"), [(PlaudAuthenticationError, 300), (PlaudTokenRejectedError, 7_200)]
)
def test_refused_credentials_end_a_wait_after_a_while_without_any_answer(
    kind: type[PlaudError], seconds: int
) -> None:
    """A client that was let in before may be refused for as long as an outage lasts."""
    wait, refused = wait_for("a", "b"), kind("401", status_code=401)
    assert not wait.on_error("a", refused, now=START)
    wait.on_transcription(seen("b", Status.PROCESSING), now=START)
    assert not wait.on_error("a", refused, now=START + 200)
    assert not wait.on_error("b", refused, now=START + 200 + seconds - 1)

    with pytest.raises(kind):
        wait.on_error("a", refused, now=START + 200 + seconds)


def test_an_id_that_cannot_be_asked_for_is_given_up_without_the_others() -> None:
    wait = wait_for("../a", "b")

    assert wait.on_error("../a", PlaudInputError("no id"), now=START)

    assert wait.pending == ("b",)
    assert wait.given_up == {"../a": "its result was given up after 1 looks: its id cannot be asked for"}


@pytest.mark.parametrize(("has_answered", "seconds"), [(False, 300), (True, 7_200)])
def test_a_bad_certificate_ends_a_wait_after_a_while_without_any_answer(
    has_answered: bool, seconds: int
) -> None:
    """One that was good may be bad for as long as an outage lasts, as when nobody has renewed it in time."""
    wait, bad = wait_for("a", "b"), PlaudCertificateError("expired")
    if has_answered:
        wait.on_transcription(seen("b", Status.PROCESSING), now=START)
    assert not wait.on_error("a", bad, now=START)
    assert not wait.on_error("b", bad, now=START + seconds - 1)

    with pytest.raises(PlaudCertificateError):
        wait.on_error("a", bad, now=START + seconds)


def test_a_wrong_connection_ends_a_wait_at_once() -> None:
    with pytest.raises(PlaudConfigurationError):
        wait_for("a").on_error("a", PlaudConfigurationError("no"), now=START)


def test_what_an_earlier_look_of_the_run_found_out_is_taken_over() -> None:
    wait = wait_for("a", "b", "c")

    wait.resume(completed=["a", "x"], failed=["b"])

    assert (wait.completed, wait.failed, wait.pending) == (["a"], {"b": None}, ("c",))


def test_a_transcription_that_was_not_asked_for_changes_nothing() -> None:
    wait = wait_for("a")

    wait.on_transcription(seen("x"), now=START)

    assert (wait.completed, wait.pending) == ([], ("a",))


def test_an_unknown_word_is_new_once() -> None:
    wait = wait_for("a", "b")
    queued = seen("a", Status.PROCESSING, word="queued")

    assert wait.is_new_word(queued)
    assert not wait.is_new_word(queued)
    assert wait.is_new_word(seen("b", Status.PROCESSING, word="paused"))
    assert not wait.is_new_word(seen("b", Status.PROCESSING))


@pytest.mark.parametrize(
    ("after", "age"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (720, "12 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
    ],
)
def test_progress_is_one_line(after: float, age: str) -> None:
    wait = wait_for(*(f"txn_{number}" for number in range(1000)))
    for number in range(412):
        wait.on_transcription(seen(f"txn_{number}"), now=START)
    for number in range(412, 415):
        wait.on_transcription(seen(f"txn_{number}", Status.FAILED), now=START)

    assert wait.progress(now=START + after) == f"412/1000 completed, 3 failed, oldest {age}"


def test_progress_at_the_end_has_no_oldest() -> None:
    wait = wait_for("a")
    wait.on_transcription(seen("a"), now=START)

    assert wait.progress(now=START + 100) == "1/1 completed, 0 failed"


def test_a_wait_that_cannot_go_on_names_the_class_of_its_error() -> None:
    result = wait_for("a").broken(PlaudAuthenticationError("refused"))

    assert (result.outcome, result.error, result.message) == ("error", "PlaudAuthenticationError", "refused")
    assert result.pending == ("a",)


ids = st.lists(st.text("abc123_", min_size=1), unique=True)


@given(
    st.sampled_from(["done", "partial", "timeout", "error"]),
    st.integers(0, 10_000),
    ids,
    ids,
    ids,
    st.none() | st.just("PlaudError"),
    st.text(),
)
def test_an_event_survives_the_way_through_the_database(
    outcome: Any,
    completed: int,
    failed: list[str],
    missing: list[str],
    pending: list[str],
    error: str | None,
    message: str,
) -> None:
    result = WaitResult(
        outcome,
        total=completed + len(failed) + len(pending),
        completed=completed,
        failed=dict.fromkeys(failed),
        missing=tuple(missing),
        pending=tuple(pending),
        error=error,
        message=message,
    )

    assert WaitResult.from_event(json.loads(json.dumps(result.to_event()))) == result


def test_an_event_carries_ids_and_counts_but_no_reasons() -> None:
    wait = wait_for("a", "b")
    wait.on_transcription(seen("a", Status.COMPLETED, text="transcript-canary"), now=START)
    wait.on_transcription(seen("b", Status.FAILED, error="reason-canary"), now=START)
    result = wait.result(now=START)

    assert result is not None
    assert "canary" not in json.dumps(result.to_event())
    assert result.to_event() == {
        "version": 1,
        "outcome": "done",
        "total": 2,
        "completed": 1,
        "failed_ids": ["b"],
        "missing_ids": [],
        "given_up": {},
        "pending_ids": [],
        "error": None,
        "message": "",
    }


GOOD = WaitResult("done", total=1, completed=1).to_event()


@pytest.mark.parametrize(
    "event",
    [
        None,
        "done",
        [],
        {},
        {**GOOD, "version": 2},
        {**GOOD, "version": None},
        {**GOOD, "outcome": "half"},
        {**GOOD, "outcome": ["done"]},
        {**GOOD, "total": "many"},
        {**GOOD, "failed_ids": None},
        {key: value for key, value in GOOD.items() if key != "pending_ids"},
    ],
)
def test_an_event_that_is_not_understood_fails_the_task(event: object) -> None:
    with pytest.raises(PlaudTriggerEventError, match="nothing is paid twice"):
        WaitResult.from_event(event)
