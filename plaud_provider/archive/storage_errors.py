"""
What is wrong with a recording in storage, in words that are safe to show.

File system libraries put URLs, headers and strings to sign into the texts of their exceptions. So nothing of
those texts is repeated: an error of ours names the reference, the class of the library's error, and the
remedy.
"""

from __future__ import annotations

from typing import TypeVar

from airflow.sdk.exceptions import AirflowException

from plaud_provider.archive.reference import AudioReference
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
)

E = TypeVar("E", bound=PlaudError)

_FORBIDDEN = (401, 403)
#: What libraries raise when they were given too little, or the wrong kind, to sign or sign in with.
_MISCONFIGURED = (ValueError, TypeError, AttributeError, KeyError, NotImplementedError, AirflowException)
_NO_CREDENTIALS = frozenset(
    ["DefaultCredentialsError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"]
)


def refused(audio: AudioReference, why: str, kind: type[E] = PlaudInputError) -> E:  # type: ignore[assignment]
    """Return an error about a recording; it was found before anything was sent."""
    return kind(f"audio_url: {audio.uri!r} {why}. Nothing was sent, nothing is paid for.")


def not_opened(audio: AudioReference, connection: str, error: Exception, *, needs: str) -> PlaudError:
    """
    Explain why no file system could be had for a recording.

    :param needs: What signing in this storage needs.
    """
    what = f"cannot be reached: {connection} did not lead to its storage ({type(error).__name__})"
    if _is_misconfigured(error):
        return refused(audio, f"{what}. Signing needs {needs}", PlaudConfigurationError)
    return refused(audio, f"{what}. Check the connection and the network, and try again", PlaudStorageError)


def not_found(audio: AudioReference, connection: str, error: Exception) -> PlaudError:
    """Explain why a recording could not be looked up."""
    if isinstance(error, FileNotFoundError):
        return refused(
            audio,
            "does not exist in its storage. Check bucket and key, upper and lower case included; they are "
            "taken as they are, not percent-decoded",
        )
    if is_forbidden(error):
        return refused(
            audio,
            f"may not be looked up with {connection}. Give it the right to read this object (S3 says the "
            "same of an object that does not exist in a bucket that it may not list)",
            PlaudConfigurationError,
        )
    return refused(
        audio,
        f"could not be looked up with {connection} ({_name(error)}). Check the connection, its credentials "
        "(temporary ones may have expired) and the network, and try again",
        PlaudStorageError,
    )


def not_readable(audio: AudioReference, connection: str, error: Exception) -> PlaudError:
    """Explain why a recording that is there could not be read."""
    what = f"exists, but cannot be read with {connection} ({_name(error)})"
    remedy = "If it is archived (such as S3 Glacier), restore it first; if it is encrypted, allow its key"
    kind = PlaudConfigurationError if is_forbidden(error) else PlaudStorageError
    return refused(audio, f"{what}. {remedy}", kind)


def not_signed(audio: AudioReference, connection: str, error: Exception, *, needs: str) -> PlaudError:
    """
    Explain why a URL could not be signed.

    :param needs: What signing in this storage needs.
    """
    what = f"could not be signed with {connection} ({type(error).__name__})"
    kind = PlaudConfigurationError if _is_misconfigured(error) else PlaudStorageError
    return refused(audio, f"{what}. Signing needs {needs}", kind)


def is_forbidden(error: Exception) -> bool:
    """Whether a storage refused access."""
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    # gcsfs has no class for it, and puts the word first.
    return isinstance(error, PermissionError) or status in _FORBIDDEN or str(error).startswith("Forbidden")


def _is_misconfigured(error: Exception) -> bool:
    return isinstance(error, _MISCONFIGURED) or type(error).__name__ in _NO_CREDENTIALS


def _name(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
