"""How recordings are to be transcribed, and which may be submitted, as arguments of operators."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

if TYPE_CHECKING:
    from plaud_provider.api.terms import Terms
    from plaud_provider.ledger.entry import State
    from plaud_provider.submit.plan import Rules


class TermsOperator(BaseOperator):
    """
    An operator that is told how recordings are to be transcribed.

    All of it is part of a recording's identity: with another model or other hotwords it is transcribed, and
    paid for, once more. An option that the connection's API does not have is refused before anything is sent.

    :param language: BCP-47 code such as ``en`` (templated); left out, Plaud detects it.
    :param speaker_diarization: Whether Plaud labels speakers (templated).
    :param model: Speech model: ``plaud-fast-whisper``, ``plaud-omni-3`` or ``azure-fast-transcribe``
        (templated); left out, Plaud chooses. API ``embedded`` only.
    :param hotwords: Words that are likely to be said, such as names: a list, or text with commas between
        (templated). API ``embedded`` only.
    :param decode_silence: Whether what is taken for silence is transcribed as well (templated). API
        ``embedded`` only.
    :param detection_level: For what the language is detected: ``segment`` or ``chapter`` (templated); left
        out, Plaud chooses. API ``embedded`` only.
    """

    template_fields: Sequence[str] = (
        "language",
        "speaker_diarization",
        "model",
        "hotwords",
        "decode_silence",
        "detection_level",
    )

    def __init__(
        self,
        *,
        language: str | None = None,
        speaker_diarization: bool | str = False,
        model: str | None = None,
        hotwords: Sequence[str] | str = (),
        decode_silence: bool | str = False,
        detection_level: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.language = language
        self.speaker_diarization = speaker_diarization
        self.model = model
        self.hotwords = hotwords
        self.decode_silence = decode_silence
        self.detection_level = detection_level

    def _terms(self, webhook_url: str | None = None) -> Terms:
        """Return what is asked for, checked."""
        from plaud_provider.api.terms import checked_terms

        return checked_terms(
            self.language,
            self.speaker_diarization,
            webhook_url,
            model=self.model,
            hotwords=self.hotwords,
            decode_silence=self.decode_silence,
            detection_level=self.detection_level,
        )


def rules_of(operator: Any, resubmit: Collection[State], **more: Any) -> Rules:
    """
    Return what an operator may submit, and how, by its arguments.

    :param operator: An operator that submits, with its templates rendered.
    :param resubmit: States that recordings are submitted again from.
    :param more: Further rules, checked.
    :raises PlaudInputError: if an argument is wrong; nothing was sent.
    """
    from plaud_provider.recordings.convert import validate_convert
    from plaud_provider.recordings.examine import validate_unreadable
    from plaud_provider.recordings.identity import validate_identity_params
    from plaud_provider.recordings.local_files import validate_public_urls
    from plaud_provider.recordings.sources import validate_url_validity
    from plaud_provider.recordings.upload import validate_upload
    from plaud_provider.submit.plan import Rules

    return Rules(
        url_validity=validate_url_validity(operator.url_validity),
        public_urls=validate_public_urls(operator.public_urls),
        resubmit=resubmit,
        identity_params=validate_identity_params(operator.identity_params),
        unreadable=validate_unreadable(operator.unreadable),
        convert=validate_convert(operator.convert),
        upload=validate_upload(operator.upload),
        results_path=operator.results_path,
        **more,
    )
