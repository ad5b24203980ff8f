"""From a client to the store of its budget."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

from plaud_provider.api.requests import Account
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.quota.stores import BudgetStore, FallbackStore, FileStore, MemoryStore

if TYPE_CHECKING:
    from airflow.sdk import Connection

_STORES: dict[tuple[object, ...], BudgetStore] = {}
_OPENING = threading.Lock()


def budget_store(account: Account, shared: Connection | None = None) -> BudgetStore:
    """
    Return where a client's budget is kept; for all who ask in this process it is the same object.

    :param account: Whose budget it is: one for each base URL and client id.
    :param shared: Airflow connection of the SQL database that several hosts share; ``None`` for a file that
        the processes of this host share. Not to be called on an event loop.
    :raises PlaudConfigurationError: if ``shared`` is no connection that can keep a budget.
    """
    folder = PrivateFolder()
    # A child of fork() must not use the database connections of its parent.
    key = (os.getpid(), folder.path, account.base_url, account.client_id, _identity(shared))
    with _OPENING:
        if key not in _STORES:
            _STORES[key] = _open(account, folder, shared)
        return _STORES[key]


def _open(account: Account, folder: PrivateFolder, shared: Connection | None) -> BudgetStore:
    name = hashlib.sha256(f"{account.base_url}\0{account.client_id}".encode()).hexdigest()[:32]
    store: BudgetStore = FallbackStore(
        FileStore(folder, name),
        MemoryStore(),
        consequence="Until then each process keeps to the requests per minute by itself, and all of them "
        f"together may be refused. Make {folder.path} a folder of this user's own (mode 0700).",
    )
    if shared is not None:
        from plaud_provider.quota.sql import SqlStore

        store = FallbackStore(
            SqlStore(shared, base_url=account.base_url, client_id=account.client_id),
            store,
            consequence="Until then each host keeps to the requests per minute by itself, and all of them "
            "together may be refused.",
        )
    return store


def _identity(shared: Connection | None) -> str | None:
    """Return what makes a connection another one: a password, for example, may be renewed."""
    if shared is None:
        return None
    names = ("conn_id", "conn_type", "host", "port", "schema", "login", "password", "extra")
    return hashlib.sha256(repr([getattr(shared, name) for name in names]).encode()).hexdigest()
