"""
The course of one submit, without I/O: what follows from each answer, and from none.

A generator in the manner of :mod:`plaud_provider.api.calls`, which it wraps: a hook performs its effects,
those of the call and the steps of the memory. Whether one recording is submitted or many, this is the only
place that says what a refusal, a lost answer or a recording that somebody else has taken over means.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from plaud_provider import metrics
from plaud_provider.api import calls
from plaud_provider.api.effects import Do, Effect, Note, SubmitPhase
from plaud_provider.exceptions import (
    PlaudError,
    PlaudExpiredUrlError,
    PlaudInputError,
    PlaudReplacedError,
    PlaudRequestError,
    PlaudStorageError,
    PlaudSubmitOutcomeUnknownError,
    PlaudTakenOverError,
    PlaudWarehouseError,
)
from plaud_provider.recordings.upload import is_fetchable, uploaded

if TYPE_CHECKING:
    from plaud_provider.api.account import Account
    from plaud_provider.api.calls import Call
    from plaud_provider.api.models import Transcription
    from plaud_provider.api.retry import RetryPolicy
    from plaud_provider.api.terms import Terms
    from plaud_provider.recordings.sources import AudioSource
    from plaud_provider.recordings.upload import Upload
    from plaud_provider.submit.memory import Memory
    from plaud_provider.submit.stop import Stop

log = logging.getLogger(__name__)

#: What keeps one recording from being submitted now, and says nothing of it for good, nor of the others.
_LEAVES_OTHERS = (PlaudStorageError, PlaudReplacedError, PlaudExpiredUrlError)


class Order(NamedTuple):
    """
    A recording to be submitted.

    :param source: Where it is.
    :param version: Version of its content, as it was identified with.
    :param terms: How it is to be transcribed.
    :param upload: How it is uploaded, if it is or may be; ``None``: Plaud fetches it from where it is.
    :param is_uploaded_anyway: Whether it is uploaded even if Plaud could fetch it.
    :param seconds: Its length, where that is known.
    """

    source: AudioSource
    version: str | None
    terms: Terms
    upload: Upload | None = None
    is_uploaded_anyway: bool = False
    seconds: float | None = None

    @property
    def uri(self) -> str:
        """Reference to it, as it may be shown."""
        return self.source.audio.uri


class Outcome(NamedTuple):
    """
    What has become of one recording; whatever it is, the next one can be submitted.

    :param transcription: What Plaud has accepted; ``None``: nothing that is known of.
    :param error: Why. Unless it is a :class:`PlaudSubmitOutcomeUnknownError`, nothing was accepted.
    """

    transcription: Transcription | None = None
    error: PlaudError | None = None


class Sending:
    """
    One submit, for whoever may have to end it.

    :param stop: Says that nothing more is to be sent.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        #: Whether it may have been sent, and what became of it is not noted yet: it is not to be interrupted.
        self.is_under_way = False


def submit(
    account: Account, policy: RetryPolicy, order: Order, memory: Memory, sending: Sending
) -> Call[Outcome]:
    """
    Submit a recording that is claimed: at most one accepted POST, which is billed.

    ===========================================  ========================  ==============================
    what happens                                 the memory notes          what follows
    ===========================================  ========================  ==============================
    Plaud accepts it                             accepted, with the id     an outcome
    the answer is lost                           unknown                   an outcome
    refused, here or by Plaud (a bad file, 422)  refused, with the reason  an outcome
    its storage is away, or it was replaced      released                  an outcome; a retry submits it
    its URL has expired                          released                  an outcome; sign it again
    somebody else has it now                     (it is theirs)            an outcome
    the client is refused (a wrong secret, 402)  released                  raised: the next would be too
    Plaud is away, or says 429 for long          released                  raised
    it is to be uploaded, and cannot be now      released                  raised: the next could not either
    the task is ended before the POST            released                  raised
    the memory is away before the POST           not accepted              raised
    the ledger is away after the POST            the id, in each memory    raised, if the ledger is the only
                                                 that answers              memory; the log has the id
    ===========================================  ========================  ==============================

    :param account: Who submits, and where.
    :param policy: Bounds of retries.
    :param order: What is submitted.
    :param memory: What keeps it from being submitted again.
    :param sending: Tells how far it is, and ends it before it is sent.
    :raises PlaudError: if submitting others would be useless. Nothing was accepted, but where the only memory
        is a ledger that is away after the POST (:class:`PlaudWarehouseError`).
    """
    uploaded_url: str | None = None
    try:
        # Before anything is noted as being sent: nothing of it is billed.
        uploaded_url = yield from _uploaded_url(account, policy, order, sending)
        call = calls.submit_transcription(
            account, policy, audio_url=partial(_signed_url, order, uploaded_url), terms=order.terms
        )
        transcription = yield from _noted(call, order, memory, sending)
    except PlaudSubmitOutcomeUnknownError as lost:
        yield Do(partial(memory.unknown, lost))
        return Outcome(error=lost)
    except PlaudTakenOverError as taken:
        return Outcome(error=taken)
    except PlaudWarehouseError:
        # There is no ledger to tell; a retry of this task has its claim at once.
        raise
    except PlaudError as error:
        if is_of_recording(error):
            if uploaded_url is not None and order.upload is not None:
                # Perhaps it is not there any more.
                yield Do(order.upload.forget)
            yield Do(partial(memory.refused, error))
            return Outcome(error=error)
        yield Do(partial(memory.released, error))
        if isinstance(error, _LEAVES_OTHERS):
            return Outcome(error=error)
        raise
    # Logged first: should nothing take a note of it, a person can still find the id.
    log.info("Plaud accepted %s as transcription %s.", order.uri, transcription.transcription_id)
    metrics.count(metrics.SUBMITTED)
    metrics.count(metrics.AUDIO_SECONDS, order.seconds or 0.0)
    yield Do(partial(memory.accepted, transcription))
    return Outcome(transcription)


def is_of_recording(error: PlaudError) -> bool:
    """Whether an error says that this recording cannot be transcribed, whoever submits it and whenever."""
    return isinstance(error, (PlaudInputError, PlaudRequestError)) and not isinstance(error, _LEAVES_OTHERS)


def _uploaded_url(account: Account, policy: RetryPolicy, order: Order, sending: Sending) -> Call[str | None]:
    """Upload a recording that is to be; return where it is then, or ``None`` if Plaud can fetch it."""
    if order.upload is None:
        return None
    if not order.is_uploaded_anyway and (yield Do(partial(is_fetchable, account, order.source))):
        return None
    return (yield from uploaded(account, policy, order.upload, check=sending.stop.check))


def _signed_url(order: Order, uploaded_url: str | None) -> str:
    """Sign a recording at the last moment, having made sure that it is still the one that was identified."""
    if order.source.look() != order.version:
        raise PlaudReplacedError(
            f"{order.uri!r} has been replaced since it was identified. Nothing was sent; a retry submits "
            "what is there now."
        )
    return uploaded_url or order.source.url().reveal()


def _noted(
    call: Call[Transcription], order: Order, memory: Memory, sending: Sending
) -> Generator[Effect, Any, Transcription]:
    """Yield a call's effects, with steps of the memory in place of its notes."""
    try:
        effect = next(call)
        while True:
            try:
                answer = None
                if isinstance(effect, Note):
                    yield from _step(effect.phase, order, memory, sending)
                else:
                    answer = yield effect
            except Exception as failure:
                effect = call.throw(failure)
            else:
                effect = call.send(answer)
    except StopIteration as done:
        transcription: Transcription = done.value
        return transcription


def _step(phase: SubmitPhase, order: Order, memory: Memory, sending: Sending) -> Generator[Effect, Any, None]:
    if phase is SubmitPhase.NOT_ACCEPTED:
        yield Do(memory.not_accepted)
        sending.is_under_way = False
        return
    sending.stop.check()
    sending.is_under_way = True
    try:
        is_ours = yield Do(memory.sending)
        if is_ours:
            sending.stop.check()
    except Exception:
        # It may be noted all the same, and nothing was sent.
        yield Do(memory.not_accepted)
        sending.is_under_way = False
        raise
    if not is_ours:
        raise PlaudTakenOverError(
            f"Another task has taken over {order.uri!r} from this one. Nothing was sent from here; a retry "
            "attaches to what that task submits."
        )
