"""
Hashes of local files, kept on this host, so that a file is read for its version once and not at each look.

A file counts as the same as long as nothing of its status changes, its time of change included, which no
program sets. The folder is this user's alone: see :mod:`plaud_provider.private_folder`.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from plaud_provider.private_folder import PrivateFolder

log = logging.getLogger(__name__)

#: Others that write at the same moment are waited for so long; a hash that is not kept is made again.
BUSY_SECONDS = 5.0
_NAME = "local_versions.db"

#: The database that a thread has open, and for whom: opening it for each of many files takes longer than the
#: lookup. A forked process opens it anew, as SQLite's connections are of one process.
_kept = threading.local()


def known_version(path: str, status: Sequence[int]) -> str | None:
    """
    Return the hash of a file that was read before; ``None`` if it was not, or has changed.

    :param path: Its absolute path.
    :param status: What of it changes when its content does.
    """
    try:
        with _opened() as database:
            row = database.execute(
                "select version from versions where path = ? and status = ?",
                (os.fsencode(path), json.dumps(status)),
            ).fetchone()
    except (OSError, sqlite3.Error) as error:
        log.debug("The hash of a local file could not be looked up: %s", type(error).__name__)
        return None
    return str(row[0]) if row else None


def keep_version(path: str, status: Sequence[int], version: str) -> None:
    """
    Keep the hash of a file.

    :param path: Its absolute path.
    :param status: Its status from before it was read.
    :param version: The hash.
    """
    try:
        with _opened() as database, database:
            database.execute(
                "insert or replace into versions values (?, ?, ?)",
                (os.fsencode(path), json.dumps(status), version),
            )
    except (OSError, sqlite3.Error) as error:
        log.debug("The hash of a local file could not be kept: %s", type(error).__name__)


@contextmanager
def _opened() -> Iterator[sqlite3.Connection]:
    """Return this thread's database; after an error it is opened anew."""
    where = (os.getpid(), os.environ.get("AIRFLOW_HOME"))
    if getattr(_kept, "where", None) != where:
        folder = PrivateFolder()
        folder.check()
        _kept.database, _kept.where = _open(os.path.join(folder.path, _NAME)), where
    try:
        yield _kept.database
    except sqlite3.Error:
        _kept.where = None
        raise


def _open(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        # Whatever a crash does to it: it holds nothing that cannot be found out again.
        database.execute("pragma synchronous = off")
        # A commit appends to a file, rather than makes and removes one.
        database.execute("pragma journal_mode = wal")
        database.execute(
            "create table if not exists versions (path blob primary key, status text, version text)"
        )
    except BaseException:
        database.close()
        raise
    return database
