"""
What is wrong with something in storage, in words that are safe to show.

File system libraries put URLs, headers and strings to sign into the texts of their exceptions. So nothing of
those texts is repeated: an error of ours names what it is about, the class of the library's error, and the
remedy.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from airflow.sdk.exceptions import AirflowException

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
)
from plaud_provider.recordings.reference import AudioReference

E = TypeVar("E", bound=PlaudError)

_FORBIDDEN = (401, 403)
#: What libraries raise when they were given too little, or the wrong kind, to sign or sign in with.
_MISCONFIGURED = (ValueError, TypeError, AttributeError, KeyError, NotImplementedError, AirflowException)
_NO_CREDENTIALS = frozenset(
    ["DefaultCredentialsError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"]
)


class Subject(NamedTuple):
    """
    What an error is about.

    :param argument: The argument that names it.
    :param uri: Its value, safe to show.
    :param state: What state things are in, whatever is wrong.
    """

    argument: str
    uri: str
    state: str

    def refused(self, why: str, kind: type[E] = PlaudInputError) -> E:  # type: ignore[assignment]
        """Return an error about it."""
        return kind(f"{self.argument}: {self.uri!r} {why}. {self.state}")


def recording(audio: AudioReference) -> Subject:
    """Return a recording as what an error is about; it is found before anything is sent."""
    return Subject("audio_url", audio.uri, "Nothing was sent, nothing is paid for.")


def refused(audio: AudioReference, why: str, kind: type[E] = PlaudInputError) -> E:  # type: ignore[assignment]
    """Return an error about a recording."""
    return recording(audio).refused(why, kind)


def not_opened(subject: Subject, connection: str, error: Exception, *, needs: str) -> PlaudError:
    """
    Explain why no file system could be had.

    :param needs: What signing in this storage needs.
    """
    what = f"cannot be reached: {connection} did not lead to its storage ({type(error).__name__})"
    if _is_misconfigured(error):
        return subject.refused(f"{what}. Signing needs {needs}", PlaudConfigurationError)
    return subject.refused(f"{what}. Check the connection and the network, and try again", PlaudStorageError)


def not_found(subject: Subject, connection: str, error: Exception) -> PlaudError:
    """Explain why a recording could not be looked up."""
    if isinstance(error, FileNotFoundError):
        return subject.refused(
            "does not exist in its storage. Check bucket and key, upper and lower case included; they are "
            "taken as they are, not percent-decoded"
        )
    if isinstance(error, IsADirectoryError):
        return subject.refused("is a folder; pass one recording")
    if is_forbidden(error):
        return subject.refused(
            f"may not be looked up with {connection}. Give it the right to read this object (S3 says the "
            "same of an object that does not exist in a bucket that it may not list)",
            PlaudConfigurationError,
        )
    return _not_done(subject, "looked up", connection, error)


def not_readable(subject: Subject, connection: str, error: Exception) -> PlaudError:
    """Explain why a recording that is there could not be read."""
    what = f"exists, but cannot be read with {connection} ({_name(error)})"
    remedy = "If it is archived (such as S3 Glacier), restore it first; if it is encrypted, allow its key"
    kind = PlaudConfigurationError if is_forbidden(error) else PlaudStorageError
    return subject.refused(f"{what}. {remedy}", kind)


def not_signed(subject: Subject, connection: str, error: Exception, *, needs: str) -> PlaudError:
    """
    Explain why a URL could not be signed.

    :param needs: What signing in this storage needs.
    """
    what = f"could not be signed with {connection} ({type(error).__name__})"
    kind = PlaudConfigurationError if _is_misconfigured(error) else PlaudStorageError
    return subject.refused(f"{what}. Signing needs {needs}", kind)


def not_listed(subject: Subject, connection: str, error: Exception) -> PlaudError:
    """Explain why a folder could not be listed."""
    if isinstance(error, FileNotFoundError):
        return subject.refused("does not exist: there is no such bucket or container. Check its name")
    if is_forbidden(error):
        return subject.refused(
            f"may not be listed with {connection}. Give it the right to list this bucket "
            "(S3: s3:ListBucket; Google: storage.objects.list)",
            PlaudConfigurationError,
        )
    return _not_done(subject, "listed", connection, error)


def not_written(subject: Subject, connection: str, error: Exception) -> PlaudError:
    """Explain why a file could not be written to a folder."""
    return _not_used(subject, "written to", connection, error)


def not_read(subject: Subject, connection: str, error: Exception) -> PlaudError:
    """Explain why a file of a folder could not be read."""
    return _not_used(subject, "read", connection, error)


def not_removed(subject: Subject, connection: str, error: Exception) -> PlaudError:
    """Explain why a file of a folder could not be removed."""
    return _not_used(subject, "cleared", connection, error)


def is_forbidden(error: Exception) -> bool:
    """Whether a storage refused access."""
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    # gcsfs has no class for it, and puts the word first.
    return isinstance(error, PermissionError) or status in _FORBIDDEN or str(error).startswith("Forbidden")


def _not_used(subject: Subject, what: str, connection: str, error: Exception) -> PlaudError:
    if isinstance(error, FileNotFoundError):
        return subject.refused(
            "does not exist: there is no such bucket or container. Make it first",
            PlaudConfigurationError,
        )
    if is_forbidden(error):
        return subject.refused(
            f"may not be {what} with {connection}. Give it the rights to list, read, write and delete there",
            PlaudConfigurationError,
        )
    return _not_done(subject, what, connection, error)


def _not_done(subject: Subject, what: str, connection: str, error: Exception) -> PlaudError:
    return subject.refused(
        f"could not be {what} with {connection} ({_name(error)}). Check the connection, its credentials "
        "(temporary ones may have expired) and the network, and try again",
        PlaudStorageError,
    )


def _is_misconfigured(error: Exception) -> bool:
    return isinstance(error, _MISCONFIGURED) or type(error).__name__ in _NO_CREDENTIALS


def _name(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
