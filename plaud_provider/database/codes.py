"""What a database's own codes for errors mean: SQLite's names and SQLSTATEs."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, OperationalError

UNIQUE_VIOLATION = "23505"
# SQLSTATEs of two writers of one row: serialization failure, deadlock.
_CONFLICTS = frozenset({"40001", "40P01"})
# The server is shutting down, has crashed, or is starting.
_AWAY = frozenset({"57P01", "57P02", "57P03"})
_LOOK_FOR_CONSTRAINTS = "Look for checks, keys and triggers that this package did not make."
#: What a database's own code means, by the start of SQLite's name for it or of a SQLSTATE.
_ADVICE = {
    "SQLITE_BUSY": (
        "another process held SQLite's write lock for too long",
        "Let fewer tasks write at once.",
    ),
    "SQLITE_READONLY": ("the database is read-only", "Check the file's permissions and the connection."),
    "SQLITE_FULL": ("the disk is full", "Make room, then retry."),
    "SQLITE_IOERR": (
        "the file could not be written",
        "Make room on its disk, check its permissions; then retry.",
    ),
    "SQLITE_CONSTRAINT": ("a constraint of the table refused a row", _LOOK_FOR_CONSTRAINTS),
    "08": ("the connection broke", "Retry."),
    "22": ("a column cannot hold a value of ours", "Compare the table's types with ours."),
    "23": ("a constraint of the table refused a row", _LOOK_FOR_CONSTRAINTS),
    "25006": ("the database is read-only", "Check the connection: this may be a standby."),
    "40": ("other writers kept getting in the way", "Retry."),
    "42501": (
        "permission was denied",
        "Grant select, insert, update and delete on our tables, create on the schema.",
    ),
    "42P01": ("a table is not there any more", "Retry: each task creates missing tables first."),
    "42703": ("a column is not there any more", "Retry: each task tells first what does not fit."),
    "53": ("the database is out of disk space, memory or connections", "Make room, then retry."),
    "55P03": ("another writer held a lock for too long", "Raise lock_timeout, or retry."),
    "57": (
        "the statement was cancelled, by a timeout or by an operator",
        "Raise statement_timeout, or retry.",
    ),
}


def code_of(error: BaseException) -> str:
    """Return the database's code for an error: SQLite's name, a SQLSTATE, or nothing."""
    original = getattr(error, "orig", None) or error
    for attribute in ("sqlite_errorname", "sqlstate", "pgcode"):
        if isinstance(code := getattr(original, attribute, None), str):
            return code
    return ""


def explained(error: BaseException) -> tuple[str, str] | None:
    """Return what an error's code means, and what to do."""
    code = code_of(error)
    if is_away(error):
        return "the connection broke" + (f" ({code})" if code else ""), "Retry."
    for start, (reason, advice) in _ADVICE.items():
        if code.startswith(start):
            return f"{reason} ({code})", advice
    return None


def is_conflict(error: BaseException) -> bool:
    """Whether another writer of the same rows was in the way."""
    return code_of(error) in _CONFLICTS


def is_away(error: BaseException) -> bool:
    """Whether a server cannot be reached (any more), which may pass."""
    if not isinstance(error, DBAPIError) or not type(error.orig).__module__.startswith("psycopg"):
        return False
    code = code_of(error)
    # libpq gives no code for a connection that it could not make, or that broke.
    return (
        error.connection_invalidated
        or code in _AWAY
        or code.startswith("08")
        or (isinstance(error, OperationalError) and not code)
    )
