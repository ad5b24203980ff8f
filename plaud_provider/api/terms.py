"""How recordings are to be transcribed: the options of a submit, checked before anything is sent."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from plaud_provider.api.arguments import (
    is_unset,
    optional,
    validate_boolean,
    validate_language,
    validate_webhook_url,
)
from plaud_provider.exceptions import PlaudInputError

#: Longer than any list that helps a recognizer, and short enough for a ledger's key and a form.
MOST_HOTWORDS = 1000
MAX_HOTWORD_CHARACTERS = 200


class Terms(NamedTuple):
    """
    How recordings are to be transcribed. Which of it an API has is known to its dialect.

    :param language: BCP-47 code; ``None``: detected.
    :param speaker_diarization: Whether to label speakers.
    :param webhook_url: Where Plaud posts results.
    :param model: Name of the speech model; ``None``: Plaud's choice.
    :param hotwords: Words that are likely to be said, such as names of products.
    :param decode_silence: Whether what is taken for silence is transcribed as well.
    :param detection_level: For what the language is detected: ``segment`` or ``chapter``; ``None``: Plaud's
        choice.
    """

    language: str | None = None
    speaker_diarization: bool = False
    webhook_url: str | None = None
    model: str | None = None
    hotwords: tuple[str, ...] = ()
    decode_silence: bool = False
    detection_level: str | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """What of the further options belongs to a recording's identity; of none, nothing."""
        parts = {
            "model": self.model,
            "hotwords": ",".join(sorted(self.hotwords)),
            "decode_silence": "yes" if self.decode_silence else None,
            "detection_level": self.detection_level,
        }
        return tuple(f"{name}={value}" for name, value in parts.items() if value)


def checked_terms(
    language: str | None = None,
    speaker_diarization: object = False,
    webhook_url: str | None = None,
    *,
    model: str | None = None,
    hotwords: object = (),
    decode_silence: object = False,
    detection_level: str | None = None,
) -> Terms:
    """
    Return how recordings are to be transcribed, from arguments that templates may have rendered.

    :raises PlaudInputError: if one cannot be used, whichever API is spoken; nothing was sent.
    """
    return Terms(
        language=validate_language(optional(language)),
        speaker_diarization=validate_boolean("speaker_diarization", speaker_diarization),
        webhook_url=validate_webhook_url(optional(webhook_url)),
        model=optional(model),
        hotwords=validate_hotwords(hotwords),
        decode_silence=validate_boolean("decode_silence", decode_silence),
        detection_level=optional(detection_level),
    )


def validate_hotwords(value: object) -> tuple[str, ...]:
    """
    Read hotwords: a list, or text with commas between them.

    :param value: The list, also as text that a template has rendered.
    :raises PlaudInputError: if one of them cannot be sent; nothing was sent.
    """
    if is_unset(value):
        return ()
    listed = _listed(value) if isinstance(value, str) else value
    if not isinstance(listed, Iterable) or isinstance(listed, (bytes, Mapping)):
        raise PlaudInputError(
            f"hotwords: takes a list of words, not a {type(value).__name__}. Nothing was sent."
        )
    words = tuple(dict.fromkeys(word for item in listed if (word := str(item).strip())))
    for word in words:
        if "," in word or not word.isprintable() or len(word) > MAX_HOTWORD_CHARACTERS:
            raise PlaudInputError(
                f"hotwords: {word[:40]!r} cannot be sent: Plaud takes them as one text with commas between, "
                f"so they have no commas or control characters, and {MAX_HOTWORD_CHARACTERS} characters at "
                "most. Nothing was sent."
            )
    if len(words) > MOST_HOTWORDS:
        raise PlaudInputError(f"hotwords: {len(words)} are more than {MOST_HOTWORDS}. Nothing was sent.")
    return words


def _listed(text: str) -> object:
    """Return the list that a text is: as JSON, as Python shows one, or with commas between its words."""
    if text.strip().startswith(("[", "(")):
        for read in (json.loads, literal_eval):
            try:
                return read(text)
            except (ValueError, SyntaxError, RecursionError):
                pass
    return text.split(",")
