"""What each end of a submit means to its memory, and to the recordings behind it. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pytest
from airflow.sdk.exceptions import AirflowFailException

from plaud_provider.api.effects import Operation, Response, TransportFailure
from plaud_provider.api.models import Transcription
from plaud_provider.api.terms import Terms
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudCertificateError,
    PlaudConfigurationError,
    PlaudConnectionError,
    PlaudError,
    PlaudInputError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudReplacedError,
    PlaudRequestError,
    PlaudServerError,
    PlaudStorageError,
    PlaudSubmitOutcomeUnknownError,
    PlaudTakenOverError,
    PlaudTokenRejectedError,
    PlaudWarehouseError,
)
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.submit.course import Order, Outcome, Sending, submit
from plaud_provider.submit.stop import Stop
from tests.unit.api.driver import ACCOUNT, LOST, NOT_SENT, Answer, World, answer, token, token_answer

URI = "s3://calls/a.wav"
URL = "https://calls.example/a.wav?X-Amz-Signature=signature-canary"
ACCEPTED = answer(200, {"transcriptionId": "txn_1", "status": "processing"})


@dataclass
class Source:
    """A recording in a storage that does as it is told."""

    version: str | None = "v1"
    looks: list[object] = field(default_factory=list)
    problem: PlaudError | None = None
    audio: AudioReference = field(default_factory=lambda: AudioReference(URI))

    def connect(self) -> None:
        """Nothing is to be opened."""

    def look(self) -> str | None:
        self.looks.append(self.version)
        return self.version

    def open(self) -> BinaryIO:
        raise NotImplementedError

    def url(self) -> AudioReference:
        if self.problem is not None:
            raise self.problem
        return AudioReference(URL)


@dataclass
class Recorder:
    """A memory that remembers what it was told, and may be away or somebody else's."""

    told: list[str] = field(default_factory=list)
    is_ours: bool = True
    away: dict[str, Exception] = field(default_factory=dict)

    def _tell(self, what: str, detail: object = "") -> None:
        self.told.append(f"{what} {detail}".strip())
        if what in self.away:
            raise self.away[what]

    def sending(self) -> bool:
        self._tell("sending")
        return self.is_ours

    def not_accepted(self) -> None:
        self._tell("not accepted")

    def accepted(self, transcription: Transcription) -> None:
        self._tell("accepted", transcription.transcription_id)

    def unknown(self, error: PlaudError) -> None:
        self._tell("unknown")

    def refused(self, error: PlaudError) -> None:
        self._tell("refused")

    def released(self, error: PlaudError) -> None:
        self._tell("released")


def run(world: World, memory: Recorder, source: Source | None = None) -> Outcome:
    order = Order(source or Source(), "v1", Terms())
    return world.run(submit(ACCOUNT, world.policy, order, memory, Sending(Stop())))


def world_with(*answers: Answer) -> World:
    return World(answers, stored=token("stored"))


def posts(world: World) -> int:
    return sum(request.operation is Operation.SUBMIT for request in world.sent)


def test_an_accepted_recording_is_noted_before_and_after() -> None:
    world, memory = world_with(ACCEPTED), Recorder()

    outcome = run(world, memory)

    assert outcome.transcription is not None
    assert (outcome.transcription.transcription_id, outcome.error) == ("txn_1", None)
    assert memory.told == ["sending", "accepted txn_1"]


@pytest.mark.parametrize("lost", [LOST, answer(500), answer(200, {}), answer(200, b"<html>")], ids=str)
def test_a_lost_answer_is_unknown_and_others_go_on(lost: Answer) -> None:
    world, memory = world_with(lost), Recorder()

    outcome = run(world, memory)

    assert isinstance(outcome.error, PlaudSubmitOutcomeUnknownError)
    assert memory.told == ["sending", "unknown"]
    assert posts(world) == 1


@pytest.mark.parametrize("status", [400, 409, 410, 413, 415, 422])
def test_what_plaud_refuses_of_a_recording_is_refused_and_others_go_on(status: int) -> None:
    memory = Recorder()

    outcome = run(world_with(answer(status, {})), memory)

    assert isinstance(outcome.error, PlaudRequestError)
    assert memory.told == ["sending", "not accepted", "refused"]


TROUBLES_OF_THE_CLIENT: list[tuple[list[Answer], type[PlaudError]]] = [
    *(([answer(status, {})], PlaudAccessError) for status in (402, 403, 404, 405, 407, 421, 426, 451)),
    ([answer(425, {})], PlaudServerError),
    *(([answer(status, b"<html>Gateway</html>")], PlaudServerError) for status in (400, 403, 413, 422)),
    ([answer(401), answer(404), answer(422)], PlaudAccessError),
    ([answer(401), token_answer("new"), *[answer(401)] * 6], PlaudTokenRejectedError),
    ([answer(401)] * 3, PlaudTokenRejectedError),
    *(([answer(status)], PlaudRedirectError) for status in (301, 302, 307, 308)),
    ([NOT_SENT] * 6, PlaudConnectionError),
    ([TransportFailure("its certificate has expired", sent=False, passing=False)], PlaudCertificateError),
    ([answer(429)] * 6, PlaudRateLimitError),
]


@pytest.mark.parametrize(("answers", "kind"), TROUBLES_OF_THE_CLIENT)
def test_what_is_the_clients_trouble_is_never_the_recordings(
    answers: list[Answer], kind: type[PlaudError]
) -> None:
    world, memory = world_with(*answers), Recorder()

    with pytest.raises(kind):
        run(world, memory)
    assert not issubclass(kind, AirflowFailException), "a retry submits it"
    assert memory.told[-1] == "released"
    assert "refused" not in memory.told


@pytest.mark.parametrize(
    ("problem", "noted"),
    [
        (PlaudInputError("is archived"), "refused"),
        (PlaudStorageError("is slow"), "released"),
    ],
)
def test_what_cannot_be_signed_is_not_sent_and_others_go_on(problem: PlaudError, noted: str) -> None:
    world, memory = world_with(), Recorder()

    outcome = run(world, memory, Source(problem=problem))

    assert outcome == Outcome(error=problem)
    assert memory.told == [noted]
    assert world.returned[-1].sent is False


def test_a_connection_that_cannot_sign_stops_all() -> None:
    memory = Recorder()

    with pytest.raises(PlaudConfigurationError):
        run(world_with(), memory, Source(problem=PlaudConfigurationError("no key to sign with")))
    assert memory.told == ["released"]


def test_a_recording_that_was_replaced_meanwhile_is_not_sent_as_the_old_one() -> None:
    world, memory = world_with(), Recorder()

    outcome = run(world, memory, Source(version="v2"))

    assert isinstance(outcome.error, PlaudReplacedError)
    assert memory.told == ["released"]
    assert posts(world) == 0


def test_it_is_looked_at_and_signed_when_there_is_nothing_to_wait_for_any_more() -> None:
    source = Source()

    def replaced(world: World) -> None:
        source.version = "v2"

    world = World([ACCEPTED], stored=token("stored"), while_queuing=replaced)

    assert isinstance(run(world, Recorder(), source).error, PlaudReplacedError)


def test_each_post_has_a_signature_of_its_own() -> None:
    source = Source()

    run(world_with(answer(429), ACCEPTED), Recorder(), source)

    assert len(source.looks) == 2


def test_what_somebody_else_has_is_not_sent() -> None:
    world, memory = world_with(), Recorder(is_ours=False)

    outcome = run(world, memory)

    assert isinstance(outcome.error, PlaudTakenOverError)
    assert posts(world) == 0
    assert memory.told == ["sending"]


@pytest.mark.parametrize("away", [PlaudWarehouseError("away"), RuntimeError("Airflow's API is away")])
def test_a_memory_that_is_away_before_the_post_keeps_it_from_being_sent(away: Exception) -> None:
    world, memory = world_with(), Recorder(away={"sending": away})

    with pytest.raises(type(away)):
        run(world, memory)
    assert posts(world) == 0
    assert memory.told == ["sending", "not accepted"]


def test_a_memory_that_stays_away_after_the_post_is_told_and_the_id_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = Recorder(away={"accepted": PlaudWarehouseError("away")})

    with caplog.at_level("INFO"), pytest.raises(PlaudWarehouseError):
        run(world_with(ACCEPTED), memory)
    assert "as transcription txn_1" in caplog.text


def test_a_call_that_is_cut_short_notes_nothing_more() -> None:
    world, memory = world_with(), Recorder()
    order = Order(Source(), "v1", Terms())
    call = submit(ACCOUNT, world.policy, order, memory, Sending(Stop()))
    effect: Any = next(call)
    while not hasattr(effect, "request"):
        effect = call.send(world._perform(effect))

    call.close()

    assert memory.told == ["sending"], "it may have been sent"


def test_the_signature_is_only_in_the_request() -> None:
    world = world_with(Response(422, {}, b""))

    outcome = run(world, Recorder())

    assert b"signature-canary" in (world.sent[-1].body or b"")
    assert "signature-canary" not in f"{outcome} {world.sent[-1]!r}"
