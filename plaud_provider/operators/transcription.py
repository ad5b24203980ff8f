"""Submit a recording, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from airflow.sdk import BaseOperator

from plaud_provider.api.arguments import (
    optional,
    validate_boolean,
    validate_language,
    validate_webhook_url,
    validate_words,
)
from plaud_provider.api.effects import SubmitPhase
from plaud_provider.exceptions import (
    PlaudError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudRequestError,
    PlaudSubmitOutcomeUnknownError,
    PlaudWarehouseError,
)
from plaud_provider.operators.chunk import HELD_SECONDS, owner_of
from plaud_provider.recordings.identity import recording_key
from plaud_provider.recordings.local_files import validate_public_urls
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.signing import AudioSource, audio_source, look_at, validate_url_validity
from plaud_provider.submit.submission import Submission, SubmissionRecord

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.api.models import Transcription
    from plaud_provider.hooks.plaud import PlaudHook
    from plaud_provider.ledger.entry import Entry, State
    from plaud_provider.submit.claim import Claim

#: What to do about a submit whose outcome nobody knows.
OnUnknownSubmit = Literal["fail", "resubmit"]


class _Order(NamedTuple):
    """What is to be transcribed, and how: the arguments, checked."""

    source: AudioSource
    language: str | None
    speaker_diarization: bool
    webhook_url: str | None

    def key(self, hook: PlaudHook, version: str | None = None) -> str:
        return recording_key(
            self.source.audio,
            version=version,
            language=self.language,
            speaker_diarization=self.speaker_diarization,
            region=hook.region,
            client_id=hook.client_id,
        )


class SubmitTranscriptionOperator(BaseOperator):
    """
    Submit a recording to Plaud and return the transcription id.

    **What is billed:** each accepted submit, by audio length. Within a DAG run a recording is submitted once:
    the intent and the id are noted in Airflow's task state store (Airflow 3.3) under the recording's
    identity, so a retry, or a user's clear, re-attaches to the earlier submit. With ``ledger_conn_id`` that
    holds over all runs and DAGs. Whatever is wrong with the
    arguments is found before anything is paid for.

    **What is not known** is never repeated silently. If a submit was sent and its answer lost, or the worker
    died while sending, Plaud may have billed it, and its API has no way to look it up. ``on_unknown_submit``
    says what to do then. Airflow 3.2 has no task state store: there every retry of this task counts as such a
    case.

    .. seealso:: https://docs.plaud.ai (transcription API)

    :param audio_url: An M4A, MP3 or WAV file (templated): a pre-signed ``https://`` URL, shown and stored
        without its signature; or a storage reference, ``s3://bucket/key``, ``gs://bucket/key`` or
        ``abfs://container/path``, optionally with an Airflow connection (``s3://aws_default@bucket/key``),
        which is looked up, and signed right before it is submitted; or a local file (see ``public_urls``).
    :param language: BCP-47 code such as ``en`` (templated); left out, Plaud detects it.
    :param speaker_diarization: Whether Plaud labels speakers (templated).
    :param webhook_url: https URL to which Plaud posts the result (templated).
    :param plaud_conn_id: Connection of type ``plaud`` (templated).
    :param region: What you take the connection's region to be: ``us``, ``eu`` or ``jp`` (templated). If it
        differs, the task fails before any request.
    :param url_validity: How long Plaud has to fetch what is signed here, as a timedelta or seconds: two
        minutes to seven days, by default six hours (templated). Temporary credentials end a URL earlier.
    :param public_urls: From where Plaud can fetch local files: base URL by folder, such as
        ``{"/data/calls/": "https://files.example/calls/"}``, or that as JSON text (templated).
    :param on_unknown_submit: ``fail``: fail, without retries, and say what to do. ``resubmit``: send the
        recording again and accept that it may be paid twice (templated).
    :param ledger_conn_id: Connection of the ledger (templated): PostgreSQL, SQLite or DuckDB. With it a
        recording is paid for once over all runs and DAGs that share the ledger: what another run has
        submitted is attached to.
    :param resubmit: What the ledger knows as ``failed`` or ``expired`` and is to be submitted, and paid for,
        again (templated).
    :return: The transcription id.
    :raises PlaudInputError: for an argument that Plaud could not use; nothing is paid for.
    :raises PlaudConfigurationError: if a connection, its rights or an extra is missing; nothing is paid for.
    :raises PlaudStorageError: if the storage could not be asked; nothing is paid for.
    :raises PlaudSubmitOutcomeUnknownError: if the recording may have been accepted.
    """

    template_fields: Sequence[str] = (
        "audio_url",
        "language",
        "speaker_diarization",
        "webhook_url",
        "plaud_conn_id",
        "region",
        "url_validity",
        "public_urls",
        "on_unknown_submit",
        "ledger_conn_id",
        "resubmit",
    )
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        audio_url: str,
        language: str | None = None,
        speaker_diarization: bool = False,
        webhook_url: str | None = None,
        plaud_conn_id: str = "plaud_default",
        region: str | None = None,
        url_validity: timedelta | float = timedelta(hours=6),
        public_urls: Mapping[str, str] | None = None,
        on_unknown_submit: OnUnknownSubmit = "fail",
        ledger_conn_id: str | None = None,
        resubmit: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.audio_url = audio_url
        self.language = language
        self.speaker_diarization = speaker_diarization
        self.webhook_url = webhook_url
        self.plaud_conn_id = plaud_conn_id
        self.region = region
        self.url_validity = url_validity
        self.public_urls = public_urls
        self.on_unknown_submit = on_unknown_submit
        self.ledger_conn_id = ledger_conn_id
        self.resubmit = resubmit

    def _convert_audio_url(self, value: Any) -> Any:
        """Wrap a URL as it is assigned, so that rendered fields show it unsigned; Airflow calls this."""
        is_template = isinstance(value, str) and ("{{" in value or "{%" in value)
        return AudioReference(value) if isinstance(value, str) and not is_template else value

    def execute(self, context: Context) -> str:
        """Re-attach to an earlier submit of this recording in this run, else submit it."""
        from plaud_provider.hooks.plaud import PlaudHook

        order = self._checked_order()
        policy = self._checked_policy()
        audio = order.source.audio
        with PlaudHook(self.plaud_conn_id, optional(self.region)) as hook:
            sighting = look_at(order.source)
            key = None if sighting.problem else order.key(hook, sighting.version)
            submission = Submission(context, reference_key=order.key(hook), key=key)
            earlier = submission.read()
            if earlier.transcription_id is not None:
                self.log.info(
                    "Re-attached to transcription %s of %s, submitted at %s; nothing is paid again.",
                    earlier.transcription_id,
                    audio.uri,
                    earlier.at,
                )
                if sighting.problem:
                    self.log.info("The recording itself could not be looked up: %s", sighting.problem)
                return earlier.transcription_id
            claim = self._claim(order, key, hook, context)
            if claim is not None and (entry := self._take(claim, policy, hook)) is not None:
                return self._attach(entry)
            if earlier.is_unknown and not (claim is not None and earlier.state == "not_recorded"):
                self._may_resubmit(policy, audio, earlier, claim=claim)
            if sighting.problem:
                raise sighting.problem
            try:
                return self._submit(hook, submission, order, claim)
            except PlaudSubmitOutcomeUnknownError as lost:
                self._may_resubmit(policy, audio, submission.unknown(), cause=lost)
            if claim is not None and (entry := self._take(claim, policy, hook)) is not None:
                return self._attach(entry)
            return self._submit(hook, submission, order, claim)

    def resume(self, context: Context, event: Any = None) -> str:
        """Go on after a wait for another task that was about to submit the same recording."""
        return self.execute(context)

    def _claim(self, order: _Order, key: str | None, hook: PlaudHook, context: Context) -> Claim | None:
        conn_id = optional(self.ledger_conn_id)
        if conn_id is None or key is None:
            return None
        from plaud_provider.ledger.entry import Recording
        from plaud_provider.ledger.ledger import open_ledger
        from plaud_provider.submit.claim import Claim

        recording = Recording(
            recording_key=key,
            audio_uri=order.source.audio.uri,
            region=hook.region,
            client_id=hook.client_id,
            language=order.language,
            speaker_diarization=order.speaker_diarization,
        )
        return Claim(open_ledger(conn_id), recording, owner_of(context))

    def _take(self, claim: Claim, policy: OnUnknownSubmit, hook: PlaudHook) -> Entry | None:
        """Claim the recording, or return what the ledger has of it, if Plaud still knows that."""
        resubmit = self._resubmittable(policy)
        entry = claim.take(resubmit)
        if entry is None or entry.transcription_id is None or not claim.may_have_expired(entry):
            return entry
        try:
            hook.get_transcription(entry.transcription_id)
        except PlaudNotFoundError as gone:
            claim.expired(entry.transcription_id, gone)
            return claim.take(resubmit)
        return entry

    def _submit(
        self,
        hook: PlaudHook,
        submission: Submission,
        order: _Order,
        claim: Claim | None,
    ) -> str:
        """Submit, and have the ledger know what comes of it."""
        if claim is None:
            return self._send(hook, submission, order, [submission.on_phase])
        try:
            return self._send(hook, submission, order, [claim.on_phase, submission.on_phase], claim.accepted)
        except PlaudSubmitOutcomeUnknownError as lost:
            claim.unknown(lost)
            raise
        except (PlaudInputError, PlaudRequestError) as refusal:
            claim.refused(refusal)
            raise
        except PlaudWarehouseError:
            # There is no ledger to tell; a retry of this task has its claim at once.
            raise
        except PlaudError as error:
            claim.given_up(error)
            raise

    def _resubmittable(self, policy: OnUnknownSubmit) -> list[State]:
        from plaud_provider.ledger.entry import State

        words = validate_words("resubmit", self.resubmit, (State.FAILED, State.EXPIRED))
        return [State(word) for word in words] + ([State.UNKNOWN] if policy == "resubmit" else [])

    def _attach(self, entry: Entry) -> str:
        """Return the id of what is at Plaud already, or wait for another task that is about to submit."""
        from plaud_provider.ledger.entry import State

        if entry.transcription_id is not None and entry.state is not State.UNKNOWN:
            self.log.info(
                "Attached to transcription %s of %s (%s), submitted by run %r of DAG %r; nothing is paid "
                "again.",
                entry.transcription_id,
                entry.audio_uri,
                entry.state.value,
                entry.owner.run_id,
                entry.owner.dag_id,
            )
            return entry.transcription_id
        if entry.state is State.UNKNOWN:
            raise PlaudSubmitOutcomeUnknownError(
                f"Whether Plaud has accepted {entry.audio_uri!r} is unknown: {entry.error} It is not sent "
                "again by itself. Look at Plaud's console or bill; then, to submit it (again), run this task "
                "with on_unknown_submit='resubmit'."
            )
        return self._come_back(entry)

    def _come_back(self, entry: Entry) -> NoReturn:
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        self.log.info(
            "Run %r of DAG %r is about to submit %s; waiting for it.",
            entry.owner.run_id,
            entry.owner.dag_id,
            entry.audio_uri,
        )
        moment = datetime.now(tz=UTC) + timedelta(seconds=HELD_SECONDS)
        self.defer(trigger=DateTimeTrigger(moment), method_name="resume")

    def _send(
        self,
        hook: PlaudHook,
        submission: Submission,
        order: _Order,
        on_phases: Sequence[Callable[[SubmitPhase], None]],
        on_accepted: Callable[[Transcription], None] = lambda transcription: None,
    ) -> str:
        def on_phase(phase: SubmitPhase) -> None:
            for told in on_phases:
                told(phase)

        uri = order.source.audio.uri
        url = order.source.url()
        self.log.info(
            "Submitting %s (language %s, %s speakers) to Plaud region '%s'.",
            uri,
            order.language or "to be detected",
            "with" if order.speaker_diarization else "without",
            hook.region,
        )
        transcription = hook.submit_transcription(
            url.reveal(),
            language=order.language,
            webhook_url=order.webhook_url,
            speaker_diarization=order.speaker_diarization,
            on_phase=on_phase,
        )
        # Logged first: should the note fail, a person can still find the id.
        self.log.info("Plaud accepted %s as transcription %s.", uri, transcription.transcription_id)
        submission.accepted(transcription.transcription_id)
        on_accepted(transcription)
        return transcription.transcription_id

    def _may_resubmit(
        self,
        policy: OnUnknownSubmit,
        audio: AudioReference,
        earlier: SubmissionRecord,
        *,
        claim: Claim | None = None,
        cause: PlaudSubmitOutcomeUnknownError | None = None,
    ) -> None:
        """
        Go on only if the user accepts that the recording may be paid twice.

        :param claim: A claim in a ledger that does not know of this; it is told.
        """
        happened = str(cause) if cause else earlier.explanation
        if policy == "resubmit":
            self.log.warning(
                "%s Submitting %s again, as on_unknown_submit='resubmit' says; it may be billed twice.",
                happened,
                audio.uri,
            )
            return
        unknown = PlaudSubmitOutcomeUnknownError(
            f"Whether Plaud has accepted {audio.uri!r} is unknown. {happened} It is not sent again by "
            "itself. Look at Plaud's console or bill, or wait for its webhook; then, to submit it (again), "
            "run this task with on_unknown_submit='resubmit'.",
            status_code=cause.status_code if cause else None,
        )
        if claim is not None:
            claim.on_phase(SubmitPhase.SENDING)
            claim.unknown(unknown)
        raise unknown from None

    def _checked_order(self) -> _Order:
        return _Order(
            source=audio_source(
                self._checked_audio(),
                url_validity=validate_url_validity(self.url_validity),
                public_urls=validate_public_urls(self.public_urls),
            ),
            language=validate_language(optional(self.language)),
            speaker_diarization=validate_boolean("speaker_diarization", self.speaker_diarization),
            webhook_url=validate_webhook_url(optional(self.webhook_url)),
        )

    def _checked_audio(self) -> AudioReference:
        audio: object = self.audio_url
        if isinstance(audio, AudioReference):
            return audio
        if isinstance(audio, str):
            return AudioReference(audio)
        raise PlaudInputError(
            f"audio_url: takes one recording, not a {type(audio).__name__}. For several, use "
            ".partial(...).expand(audio_url=[...]). Nothing was sent."
        )

    def _checked_policy(self) -> OnUnknownSubmit:
        policy = self.on_unknown_submit
        if policy in ("fail", "resubmit"):
            return policy
        raise PlaudInputError(
            f"on_unknown_submit: {policy!r} is not 'fail' or 'resubmit'. Nothing was sent, nothing is paid "
            "for."
        )
