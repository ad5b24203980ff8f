"""
Which recording is which.

Plaud's API has no idempotency key: what keeps a recording from being paid for twice is that every retry, run
and DAG computes the same key for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from plaud_provider.api.arguments import is_unset, split_words
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.reference import AudioReference


def recording_key(
    audio: AudioReference,
    *,
    version: str | None = None,
    language: str | None,
    speaker_diarization: bool,
    region: str,
    client_id: str,
    identity_params: Collection[str] | None = None,
    recording_id: str | None = None,
    options: Collection[str] = (),
) -> str:
    r"""
    Return the identity of one paid transcription of one recording, as 64 hex digits.

    The parts are joined by ``\x00``, so that no two different lists of parts read the same. The webhook URL
    is not part of it: it changes where a result goes, not what is paid for.

    :param audio: The recording.
    :param version: Version or ETag of the object, where it is known.
    :param language: Language that is asked for.
    :param speaker_diarization: Whether speakers are asked for.
    :param region: Plaud region.
    :param client_id: Plaud client id: another client pays on another account.
    :param identity_params: What :func:`validate_identity_params` returned.
    :param recording_id: What its user knows it by; ``None``: its reference.
    :param options: What else is asked for (:attr:`plaud_provider.api.terms.Terms.identity`); without any, the
        key is what it was before there were such options.
    :raises PlaudInputError: if a part contains ``\x00``.
    """
    parts = (
        # No reference begins so: there is no "_" in a scheme.
        audio.identified_by(identity_params) if recording_id is None else f"recording_id:{recording_id}",
        version or "",
        language or "",
        "diarization" if speaker_diarization else "",
        region,
        client_id,
        *options,
    )
    if "\x00" in "".join(parts):
        raise PlaudInputError(
            f"audio_url: {audio.uri!r}, or what it is identified by, contains a NUL character. Nothing was "
            "sent."
        )
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def validate_identity_params(value: object) -> list[str] | None:
    """
    Return which parameters of a URL's query tell recordings apart; ``None``: whatever does not look signed.

    :param value: Their names, as a list or as text that a template has rendered. An empty list: none does.
    """
    return None if is_unset(value) else split_words(value)
