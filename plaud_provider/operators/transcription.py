"""Submit a recording, once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from plaud_provider.api.arguments import optional, validate_language, validate_webhook_url
from plaud_provider.archive.checks import check_audio_url, check_validity
from plaud_provider.archive.identity import recording_key
from plaud_provider.archive.reference import AudioReference
from plaud_provider.exceptions import PlaudInputError, PlaudSubmitOutcomeUnknownError
from plaud_provider.operators.submission import Submission, SubmissionRecord

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.hooks.plaud import PlaudHook

#: What to do about a submit whose outcome nobody knows.
OnUnknownSubmit = Literal["fail", "resubmit"]


class SubmitTranscriptionOperator(BaseOperator):
    """
    Submit a recording to Plaud and return the transcription id.

    **What is billed:** each accepted submit, by audio length. Within a DAG run a recording is submitted once:
    the intent and the id are noted in Airflow's task state store (Airflow 3.3) under the recording's
    identity, so a retry, or a user's clear, re-attaches to the earlier submit. Whatever is wrong with the
    arguments is found before anything is paid for.

    **What is not known** is never repeated silently. If a submit was sent and its answer lost, or the worker
    died while sending, Plaud may have billed it, and its API has no way to look it up. ``on_unknown_submit``
    says what to do then. Airflow 3.2 has no task state store: there every retry of this task counts as such a
    case.

    .. seealso:: https://docs.plaud.ai (transcription API)

    :param audio_url: Pre-signed ``https://`` URL of an M4A, MP3 or WAV file (templated). Shown and stored
        without its signature.
    :param language: BCP-47 code such as ``en`` (templated); left out, Plaud detects it.
    :param speaker_diarization: Whether Plaud labels speakers (templated).
    :param webhook_url: https URL to which Plaud posts the result (templated).
    :param plaud_conn_id: Connection of type ``plaud`` (templated).
    :param region: What you take the connection's region to be: ``us``, ``eu`` or ``jp`` (templated). If it
        differs, the task fails before any request.
    :param on_unknown_submit: ``fail``: fail, without retries, and say what to do. ``resubmit``: send the
        recording again and accept that it may be paid twice (templated).
    :return: The transcription id.
    :raises PlaudInputError: for an argument that Plaud could not use; nothing is paid for.
    :raises PlaudSubmitOutcomeUnknownError: if the recording may have been accepted.
    """

    template_fields: Sequence[str] = (
        "audio_url",
        "language",
        "speaker_diarization",
        "webhook_url",
        "plaud_conn_id",
        "region",
        "on_unknown_submit",
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
        on_unknown_submit: OnUnknownSubmit = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.audio_url = audio_url
        self.language = language
        self.speaker_diarization = speaker_diarization
        self.webhook_url = webhook_url
        self.plaud_conn_id = plaud_conn_id
        self.region = region
        self.on_unknown_submit = on_unknown_submit

    def _convert_audio_url(self, value: Any) -> Any:
        """Wrap a URL as it is assigned, so that rendered fields show it unsigned; Airflow calls this."""
        is_template = isinstance(value, str) and ("{{" in value or "{%" in value)
        return AudioReference(value) if isinstance(value, str) and not is_template else value

    def execute(self, context: Context) -> str:
        """Re-attach to an earlier submit of this recording in this run, else submit it."""
        from plaud_provider.hooks.plaud import PlaudHook

        audio = self._checked_audio()
        diarization = _boolean(self.speaker_diarization)
        language = validate_language(optional(self.language))
        webhook_url = validate_webhook_url(optional(self.webhook_url))
        policy = self._checked_policy()
        with PlaudHook(self.plaud_conn_id, optional(self.region)) as hook:
            key = recording_key(
                audio,
                language=language,
                speaker_diarization=diarization,
                region=hook.region,
                client_id=hook.client_id,
            )
            submission = Submission(context, key)
            earlier = submission.read()
            if earlier.transcription_id is not None:
                self.log.info(
                    "Re-attached to transcription %s of %s, submitted at %s; nothing is paid again.",
                    earlier.transcription_id,
                    audio.uri,
                    earlier.at,
                )
                return earlier.transcription_id
            if earlier.is_unknown:
                self._may_resubmit(policy, audio, earlier)
            try:
                return self._submit(hook, submission, audio, language, webhook_url, diarization)
            except PlaudSubmitOutcomeUnknownError as lost:
                self._may_resubmit(policy, audio, submission.unknown(), cause=lost)
                return self._submit(hook, submission, audio, language, webhook_url, diarization)

    def _submit(
        self,
        hook: PlaudHook,
        submission: Submission,
        audio: AudioReference,
        language: str | None,
        webhook_url: str | None,
        diarization: bool,
    ) -> str:
        check_validity(audio, now=datetime.now(tz=UTC))
        self.log.info(
            "Submitting %s (language %s, %s speakers) to Plaud region '%s'.",
            audio.uri,
            language or "to be detected",
            "with" if diarization else "without",
            hook.region,
        )
        transcription = hook.submit_transcription(
            audio.reveal(),
            language=language,
            webhook_url=webhook_url,
            speaker_diarization=diarization,
            on_phase=submission.on_phase,
        )
        # Logged first: should the note fail, a person can still find the id.
        self.log.info("Plaud accepted %s as transcription %s.", audio.uri, transcription.transcription_id)
        submission.accepted(transcription.transcription_id)
        return transcription.transcription_id

    def _may_resubmit(
        self,
        policy: OnUnknownSubmit,
        audio: AudioReference,
        earlier: SubmissionRecord,
        *,
        cause: PlaudSubmitOutcomeUnknownError | None = None,
    ) -> None:
        """Go on only if the user accepts that the recording may be paid twice."""
        happened = str(cause) if cause else earlier.explanation
        if policy == "resubmit":
            self.log.warning(
                "%s Submitting %s again, as on_unknown_submit='resubmit' says; it may be billed twice.",
                happened,
                audio.uri,
            )
            return
        raise PlaudSubmitOutcomeUnknownError(
            f"Whether Plaud has accepted {audio.uri!r} is unknown. {happened} It is not sent again by "
            "itself. Look at Plaud's console or bill, or wait for its webhook; then, to submit it (again), "
            "run this task with on_unknown_submit='resubmit'.",
            status_code=cause.status_code if cause else None,
        ) from None

    def _checked_audio(self) -> AudioReference:
        audio: object = self.audio_url
        if not isinstance(audio, (str, AudioReference)):
            raise PlaudInputError(
                f"audio_url: takes the URL of one recording, not a {type(audio).__name__}. For several, use "
                ".partial(...).expand(audio_url=[...]). Nothing was sent."
            )
        if isinstance(audio, str):
            audio = AudioReference(audio)
        check_audio_url(audio)
        return audio

    def _checked_policy(self) -> OnUnknownSubmit:
        policy = self.on_unknown_submit
        if policy in ("fail", "resubmit"):
            return policy
        raise PlaudInputError(
            f"on_unknown_submit: {policy!r} is not 'fail' or 'resubmit'. Nothing was sent, nothing is paid "
            "for."
        )


def _boolean(value: object) -> bool:
    """Read a boolean that may have been rendered to text by a template."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off", "none", ""):
        return False
    raise PlaudInputError(f"speaker_diarization: {value!r} is neither true nor false. Nothing was sent.")
