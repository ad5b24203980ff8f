"""An API key, which cannot be renewed: what a refusal of it means that passes, and one that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from plaud_provider.api.account import Account
from plaud_provider.api.calls import Call, get_transcription, submit_transcription
from plaud_provider.api.dialects import EMBEDDED
from plaud_provider.api.effects import Response, SubmitPhase
from plaud_provider.api.regions import Region
from plaud_provider.exceptions import PlaudAuthenticationError, PlaudTokenRejectedError
from tests.unit.api.driver import World, answer

KEYED = Account(
    Region.US, "https://platform-us.plaud.ai/developer/api", "client", "secret", EMBEDDED, "api-key-canary"
)
PENDING = answer(200, {"transcription_id": "t1", "status": "PENDING", "data": {}})
UNKNOWN_CLIENT = {"detail": "CLIENT_NOT_FOUND"}
REFUSALS = [answer(401), answer(401, b"<html>"), answer(401, UNKNOWN_CLIENT), answer(200, UNKNOWN_CLIENT)]


def look(world: World) -> Call[Any]:
    return get_transcription(KEYED, "t1", world.policy)


def submit(world: World) -> Call[Any]:
    return submit_transcription(KEYED, world.policy, audio_url="https://bucket.example/a.wav")


BOTH_CALLS = pytest.mark.parametrize("call", [look, submit])


@BOTH_CALLS
@pytest.mark.parametrize("refusal", REFUSALS, ids=["nothing", "page", "client", "200"])
def test_a_refusal_of_a_key_that_was_good_is_waited_out(
    call: Callable[[World], Call[Any]], refusal: Response
) -> None:
    world = World([refusal] * 3 + [PENDING], was_key_accepted=True)

    assert world.run(call(world)).transcription_id == "t1"
    assert len(world.sent) == 4
    assert min(world.slept) >= 2.5
    if call is submit:
        # Whatever ends the task between two attempts, it is known that nothing was accepted.
        phases = [note for note in world.notes if isinstance(note, SubmitPhase)]
        assert phases == [SubmitPhase.SENDING, SubmitPhase.NOT_ACCEPTED] * 3 + [SubmitPhase.SENDING]


@BOTH_CALLS
def test_it_is_not_waited_for_without_end_and_a_retry_may_pass(call: Callable[[World], Call[Any]]) -> None:
    world = World(then=answer(401, UNKNOWN_CLIENT), was_key_accepted=True)

    with pytest.raises(PlaudTokenRejectedError, match="accepted them before") as refused:
        world.run(call(world))
    assert len(world.sent) == world.policy.attempts
    assert sum(world.slept) < 120
    assert refused.value.status_code == 401
    assert "canary" not in str(refused.value)


@BOTH_CALLS
def test_a_key_that_was_never_good_is_refused_at_once(call: Callable[[World], Call[Any]]) -> None:
    world = World(then=answer(401, UNKNOWN_CLIENT))

    with pytest.raises(PlaudAuthenticationError, match="CLIENT_NOT_FOUND"):
        world.run(call(world))
    assert (len(world.sent), world.slept, world.was_key_accepted) == (1, [], False)


@BOTH_CALLS
def test_what_plaud_answers_says_that_the_key_is_good(call: Callable[[World], Call[Any]]) -> None:
    world = World([PENDING])

    world.run(call(world))

    assert world.was_key_accepted


def test_an_answer_that_says_what_was_made_of_a_recording_is_no_refusal() -> None:
    paid = answer(200, {"transcription_id": "t1", "status": "PENDING", "message": "token bucket is full"})
    world = World([paid], was_key_accepted=True)

    assert world.run(submit(world)).transcription_id == "t1"
    assert len(world.sent) == 1
