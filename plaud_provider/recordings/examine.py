"""Whether a recording may be submitted, by its content."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from plaud_provider.api.limits import MAX_HOURS
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.audio import Measured, measure
from plaud_provider.recordings.media import length_in_words
from plaud_provider.recordings.reference import refused

if TYPE_CHECKING:
    from plaud_provider.recordings.sources import AudioSource

log = logging.getLogger(__name__)

Unreadable = Literal["refuse", "send"]

#: What Plaud takes, M4A, MP3 and WAV, and what players take for them whatever their name.
TAKEN = frozenset({"m4a", "mp3", "wav", "aac", "w64"})


def validate_unreadable(value: object) -> Unreadable:
    """
    Return what to do with recordings that cannot be measured.

    :param value: ``refuse`` or ``send``.
    :raises PlaudInputError: if it is something else; nothing was sent.
    """
    if value == "refuse":
        return "refuse"
    if value == "send":
        return "send"
    raise PlaudInputError(
        f"unreadable: {value!r} is not 'refuse' or 'send'. It says what to do with a recording that cannot "
        "be measured. Nothing was sent, nothing is paid for."
    )


def examine(
    source: AudioSource,
    *,
    max_hours: float = MAX_HOURS,
    unreadable: Unreadable = "refuse",
    is_converted: bool = False,
) -> Measured:
    """
    Find out what a recording is by reading it, of a storage a few blocks.

    An estimate of its length is no reason to refuse it.

    :param source: The recording.
    :param max_hours: One that is measured to be longer is refused.
    :param unreadable: What to do with one that cannot be measured.
    :param is_converted: Whether one of a format that Plaud does not take is going to be converted.
    :raises PlaudInputError: if it is empty, damaged, too long or of a format that Plaud does not take.
    :raises PlaudConfigurationError: if the connection, a right or an extra is missing.
    :raises PlaudStorageError: if it could not be read.
    """
    audio = source.audio
    with source.open() as file:
        found = measure(file, is_ranged=source.is_ranged)
    if found.kind == "not measurable":
        if unreadable == "refuse":
            raise refused(audio, f"{found.problem}. To let Plaud try, submit it with unreadable='send'")
        log.warning("%s %s. It is sent all the same, as unreadable='send' says.", audio.uri, found.problem)
    elif found.format not in TAKEN and not is_converted:
        raise refused(
            audio,
            f"is {found.format.upper()} by its content, whatever its name; Plaud transcribes M4A, MP3 and "
            "WAV. Convert it first, or submit it with convert='mp3'",
        )
    elif found.kind == "measured" and (found.seconds or 0.0) > max_hours * 3600:
        raise refused(
            audio,
            f"is {length_in_words(found.seconds or 0.0)} long, more than the {max_hours:g} hours that are "
            "allowed. Split it",
        )
    return found
