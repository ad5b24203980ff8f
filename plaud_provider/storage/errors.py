"""
What is wrong with something in storage, in words that are safe to show.

File system libraries put URLs, headers and strings to sign into the texts of their exceptions. So nothing of
those texts is repeated: an error of ours names what it is about, the class of the library's error, and the
remedy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from airflow.sdk.exceptions import AirflowException

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudNotFetchableError,
    PlaudStorageError,
)
from plaud_provider.storage.signatures import shown_reference

_FORBIDDEN = (401, 403)
#: How a storage refuses to read what it has just described: it is encrypted with a key that the connection
#: may not use, or that was not given, or denied by itself.
_REFUSED_TO_READ = (400, 403, 409)
#: The storages' own words for an object that is archived.
_ARCHIVED = frozenset(["InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"])
#: S3's words for temporary credentials that have ended. The next attempt has new ones.
_ENDED = frozenset(["ExpiredToken", "TokenRefreshRequired"])
#: What libraries raise when they were given too little, or the wrong kind, to sign or sign in with.
_MISCONFIGURED = (ValueError, TypeError, AttributeError, KeyError, NotImplementedError, AirflowException)
_NO_CREDENTIALS = frozenset(
    ["DefaultCredentialsError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"]
)


class Argument(NamedTuple):
    """
    The argument that an error is about.

    :param name: Its name.
    :param value: Its value; errors show it without its secrets.
    :param state: What state things are in, whatever is wrong.
    :param kind: Class of an error if its value is wrong.
    """

    name: str
    value: str
    state: str
    kind: type[PlaudError] = PlaudInputError

    @property
    def shown(self) -> str:
        """Its value, safe to show."""
        return shown_reference(self.value)

    def error(self, why: str, kind: type[PlaudError] | None = None) -> PlaudError:
        """
        Return an error about it.

        :param why: What is wrong, as in "is empty".
        :param kind: Class of the error; ``None``: that of a wrong value.
        """
        return (kind or self.kind)(f"{self.name}: {self.shown!r} {why}. {self.state}")


def not_opened(argument: Argument, connection: str, error: Exception, *, needs: str) -> PlaudError:
    """
    Explain why no file system could be had.

    :param needs: What signing in this storage needs.
    """
    what = f"cannot be reached: {connection} did not lead to its storage ({type(error).__name__})"
    if _is_misconfigured(error):
        return argument.error(f"{what}. Signing needs {needs}", PlaudConfigurationError)
    return argument.error(f"{what}. Check the connection and the network, and try again", PlaudStorageError)


def not_found(argument: Argument, connection: str, error: Exception) -> PlaudError:
    """Explain why an object could not be looked up."""
    if isinstance(error, FileNotFoundError):
        return argument.error(
            "does not exist in its storage. Check bucket and key, upper and lower case and white space "
            "included; they are taken as they are, not percent-decoded",
            PlaudInputError,
        )
    if isinstance(error, IsADirectoryError):
        return argument.error("is a folder; pass one recording", PlaudInputError)
    if is_forbidden(error):
        return argument.error(
            f"may not be looked up with {connection}. Give it the right to read this object (S3 says the "
            "same of an object that does not exist in a bucket that it may not list)",
            PlaudConfigurationError,
        )
    return _not_done(argument, "looked up", connection, error)


def archived(argument: Argument) -> PlaudError:
    """Explain why an object cannot be read although it is there: it would take hours to get at it."""
    return argument.error(
        "is archived, and cannot be read: restore it first (S3: restore-object; Azure: move it to another "
        "access tier), and submit it when that is done",
        PlaudInputError,
    )


def not_readable(argument: Argument, connection: str, error: Exception) -> PlaudError:
    """
    Explain why an object could not be read that could be looked up.

    The connection is right, then: what the storage refuses is this one object.
    """
    if _code(error) in _ARCHIVED:
        return archived(argument)
    if _status(error) in _REFUSED_TO_READ and _code(error) not in _ENDED:
        return argument.error(
            f"exists, but may not be read with {connection} ({_name(error)}). If it is encrypted, allow its "
            "key; else give the connection the right to read this object",
            PlaudInputError,
        )
    return _not_done(argument, "read", connection, error)


def not_signed(argument: Argument, connection: str, error: Exception, *, needs: str) -> PlaudError:
    """
    Explain why a URL could not be signed.

    :param needs: What signing in this storage needs.
    """
    kind = PlaudNotFetchableError if _is_misconfigured(error) else PlaudStorageError
    return argument.error(
        f"could not be signed with {connection} ({type(error).__name__}). Signing needs {needs}", kind
    )


def not_listed(argument: Argument, connection: str, error: Exception) -> PlaudError:
    """Explain why a folder could not be listed."""
    if isinstance(error, FileNotFoundError):
        return argument.error(
            "does not exist: there is no such bucket or container. Check its name", PlaudInputError
        )
    if is_forbidden(error):
        return argument.error(
            f"may not be listed with {connection}. Give it the right to list this bucket "
            "(S3: s3:ListBucket; Google: storage.objects.list)",
            PlaudConfigurationError,
        )
    return _not_done(argument, "listed", connection, error)


def file_not_written(argument: Argument, connection: str, error: Exception) -> PlaudError:
    """Explain why a file could not be written to a folder."""
    return _folder_not_used(argument, "written to", connection, error)


def file_not_read(argument: Argument, connection: str, error: Exception) -> PlaudError:
    """Explain why a file of a folder could not be read."""
    return _folder_not_used(argument, "read", connection, error)


def file_not_removed(argument: Argument, connection: str, error: Exception) -> PlaudError:
    """Explain why a file of a folder could not be removed."""
    return _folder_not_used(argument, "cleared", connection, error)


def is_forbidden(error: Exception) -> bool:
    """Whether a storage refused access, and will again."""
    return _status(error) in _FORBIDDEN and _code(error) not in _ENDED


def _folder_not_used(argument: Argument, what: str, connection: str, error: Exception) -> PlaudError:
    if isinstance(error, FileNotFoundError):
        return argument.error(
            "does not exist: there is no such bucket or container. Make it first",
            PlaudConfigurationError,
        )
    if is_forbidden(error):
        return argument.error(
            f"may not be {what} with {connection}. Give it the rights to list, read, write and delete there",
            PlaudConfigurationError,
        )
    return _not_done(argument, what, connection, error)


def _not_done(argument: Argument, what: str, connection: str, error: Exception) -> PlaudError:
    return argument.error(
        f"could not be {what} with {connection} ({_name(error)}). Check the connection, its credentials "
        "(temporary ones may have expired) and the network, and try again",
        PlaudStorageError,
    )


def _is_misconfigured(error: Exception) -> bool:
    return isinstance(error, _MISCONFIGURED) or type(error).__name__ in _NO_CREDENTIALS


def _status(error: Exception) -> int | None:
    """Return the HTTP status that a storage answered with, where its library tells."""
    # s3fs raises an error of Python's from botocore's.
    if answer := _s3_answer(error):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
    # gcsfs has no class for this one, and puts the word first.
    if status is None and (isinstance(error, PermissionError) or str(error).startswith("Forbidden")):
        return 403
    return status if isinstance(status, int) else None


def _code(error: Exception) -> str:
    """Return the storage's own word for what is wrong, where its library tells."""
    code = _s3_answer(error).get("Error", {}).get("Code") or getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))


def _s3_answer(error: Exception) -> dict[str, Any]:
    answer = getattr(error.__cause__, "response", None)
    return answer if isinstance(answer, dict) else {}


def _name(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
