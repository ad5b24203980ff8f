"""Which slots of the budget a call takes, and what it says when it returns them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from plaud_provider.api.calls import Call, get_transcription, submit_transcription, verify_credentials
from plaud_provider.api.effects import Operation, ReturnSlot, SubmitPhase, TransportFailure
from plaud_provider.api.models import Transcription
from plaud_provider.exceptions import PlaudError, PlaudSubmitOutcomeUnknownError
from tests.unit.api.driver import ACCOUNT, LOST, NOT_SENT, Answer, World, answer, token, token_answer

PROCESSING = answer(200, {"transcriptionId": "txn_1", "status": "processing"})

Make = Callable[[World], Call[Transcription]]


def submit(world: World) -> Call[Transcription]:
    return submit_transcription(ACCOUNT, world.policy, audio_url="https://bucket.example/a.wav")


def get(world: World) -> Call[Transcription]:
    return get_transcription(ACCOUNT, "txn_1", world.policy)


def slots(world: World) -> list[ReturnSlot]:
    """Return what was said of each slot, whatever was said of a submit."""
    return [returned._replace(is_answered=None) for returned in world.returned]


@pytest.mark.parametrize(
    ("outcome", "is_answered"),
    [
        (PROCESSING, True),
        (answer(404), True),
        (answer(200, b"<html><title>Gateway</title></html>"), False),
        (answer(200, b'{"transcriptionId": ['), False),
        (answer(200, {"status": "processing"}), False),
        (answer(303), False),
        (answer(408), False),
        (answer(500), False),
        (answer(503), False),
        (LOST, False),
        (TransportFailure("no connection", sent=False, passing=False), None),
    ],
    ids=str,
)
def test_of_each_submit_that_was_sent_it_is_said_whether_plaud_answered(
    outcome: Answer, is_answered: bool | None
) -> None:
    world = World([outcome], stored=token("stored"))

    with suppress(PlaudError):
        world.run(submit(world))

    assert world.returned[0].is_answered is is_answered


@pytest.mark.parametrize("make", [submit, get])
def test_each_request_takes_a_slot_and_returns_it(make: Make) -> None:
    world = World([PROCESSING], stored=token("stored"))

    world.run(make(world))

    assert slots(world) == [ReturnSlot(sent=True, refused_for=None)]


def test_token_requests_take_none() -> None:
    world = World([token_answer("t")])

    world.run(verify_credentials(ACCOUNT, world.policy))

    assert slots(world) == []


def test_a_submit_is_not_noted_as_being_sent_while_it_waits_for_its_turn() -> None:
    """A process that is killed then leaves nothing behind that could be unknown."""
    noted: list[list[SubmitPhase | Operation]] = []
    world = World(
        [PROCESSING], stored=token("stored"), while_queuing=lambda world: noted.append([*world.notes])
    )

    world.run(submit(world))

    assert noted == [[]]
    assert world.notes == [SubmitPhase.SENDING, Operation.SUBMIT]


@pytest.mark.parametrize("make", [submit, get])
def test_a_slot_whose_request_never_left_is_returned_unused(make: Make) -> None:
    world = World([NOT_SENT, PROCESSING], stored=token("stored"))

    world.run(make(world))

    assert slots(world) == [ReturnSlot(sent=False), ReturnSlot(sent=True)]


@pytest.mark.parametrize("make", [submit, get])
@pytest.mark.parametrize(
    "failure",
    [
        LOST,
        TransportFailure("too large", sent=True, passing=False),
        answer(500),
        answer(404),
        answer(200, b"{"),
    ],
    ids=str,
)
def test_a_slot_is_returned_whatever_becomes_of_the_request(make: Make, failure: Answer) -> None:
    world = World([failure], then=failure, stored=token("stored"))

    with suppress(PlaudError):
        world.run(make(world))

    assert slots(world) == [ReturnSlot(sent=True)] * len(world.sent)


@pytest.mark.parametrize("make", [submit, get])
def test_a_refusal_says_for_how_long_nobody_is_to_send(make: Make) -> None:
    world = World([answer(429, retry_after="20"), answer(429), PROCESSING], stored=token("stored"))

    world.run(make(world))

    first, second, last = (returned.refused_for for returned in world.returned)
    assert first is not None
    assert second is not None
    assert 20 <= first <= 22
    # Backoff, as for the call itself.
    assert 0 <= second <= 2
    assert last is None


@pytest.mark.parametrize("make", [submit, get])
def test_a_request_leaves_with_the_token_that_there_is_after_its_wait_for_a_slot(make: Make) -> None:
    """The one from before may have been rejected meanwhile."""

    def another_renews(world: World) -> None:
        world.state = world.state._replace(token=token("renewed"))

    world = World([PROCESSING], stored=token("stored"), while_queuing=another_renews)

    world.run(make(world))

    assert [request.headers["Authorization"] for request in world.sent] == ["Bearer renewed"]


def test_a_request_that_is_sent_again_with_another_token_takes_another_slot() -> None:
    world = World([answer(401), token_answer("second"), PROCESSING], stored=token("first"))

    world.run(get(world))

    assert world.operations == ["get", "refresh", "get"]
    assert slots(world) == [ReturnSlot(sent=True)] * 2


@pytest.mark.parametrize(
    "refusal",
    [
        answer(404, {"error": "NOT_FOUND"}),
        answer(404, b"<html>"),
        answer(200, {"status": "failed"}),
        answer(200, {"transcription_id": "txn_none", "status": "PENDING"}),
        answer(200, {"detail": "NOT_FOUND"}),
        answer(429),
    ],
    ids=str,
)
def test_a_trial_looks_first_and_submits_if_plaud_answers_with_anything(refusal: Answer) -> None:
    world = World([refusal, PROCESSING], stored=token("stored"), is_trial=True)

    assert world.run(submit(world)).transcription_id == "txn_1"

    assert world.operations == ["get", "submit"]
    assert len(world.returned) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        *(answer(status) for status in (302, 408, 503)),
        *(answer(200, body) for body in (b"<html>", b"OK", b"", {}, [], {"message": "maintenance"})),
        answer(502, b"<html>"),
        LOST,
        NOT_SENT,
    ],
    ids=str,
)
def test_a_trial_submits_nothing_while_a_look_is_not_answered_either(trouble: Answer) -> None:
    """A submit would only be one more of unknown outcome."""
    world = World([trouble], stored=token("stored"), is_trial=True)

    with pytest.raises(PlaudError) as raised:
        world.run(submit(world))

    assert not isinstance(raised.value, PlaudSubmitOutcomeUnknownError)
    assert world.operations == ["get"]
    assert SubmitPhase.SENDING not in world.notes
    assert len(world.returned) == 1
