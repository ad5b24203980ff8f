"""From a Plaud connection's settings to the quota that a hook keeps to, and the store that keeps it."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from plaud_provider.api.account import Account
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.quota.rule import Rate
from plaud_provider.quota.stores import FallbackStore, FileStore, MemoryStore, QuotaStore
from plaud_provider.quota.turns import NOTE_SECONDS, ClientQuota

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    from plaud_provider.quota.sql_store import SqlStore

_STORES: dict[tuple[object, ...], QuotaStore] = {}
_OPENING = threading.Lock()


def open_quota(
    account: Account,
    requests_per_minute: float,
    shared: Connection | None,
    *,
    exchange_seconds: float,
    minute: float,
    log: Any,
) -> ClientQuota:
    """
    Return the quota that a hook keeps to. Not to be called on an event loop.

    :param account: Whose quota it is.
    :param requests_per_minute: The Plaud connection's figure.
    :param shared: The connection that its ``budget_conn_id`` names.
    :param exchange_seconds: Longest time from sending a request until it is answered or given up.
    :param minute: Seconds of a minute.
    :param log: The hook's log.
    :raises PlaudConfigurationError: if ``shared`` cannot keep a quota; nothing was sent.
    """
    rate = Rate(requests_per_minute, exchange_seconds=exchange_seconds + NOTE_SECONDS, minute=minute)
    return ClientQuota(
        quota_store(account, shared, minute=minute), rate, client_id=account.client_id, log=log
    )


class Usage(NamedTuple):
    """
    How much of a quota is used.

    :param used: Requests on their way, or answered within the last minute.
    :param limit: Requests a minute that there may be now.
    :param spare: Requests that may be sent at once; 0 while somebody waits for a turn.
    :param paused_seconds: For how long nobody sends, as after a refusal.
    """

    used: int
    limit: float
    spare: int
    paused_seconds: float


def look_at_quota(account: Account, requests_per_minute: float, shared: Connection | None) -> Usage | None:
    """
    Look at a client's quota, for people; nothing is changed, created or waited for.

    :param account: Whose quota it is.
    :param requests_per_minute: The Plaud connection's figure.
    :param shared: The connection that its ``budget_conn_id`` names; without, only this host's file is seen.
    :return: ``None`` if no request was counted where this process can see it.
    """
    store: FileStore | SqlStore
    if shared is None:
        store = FileStore(PrivateFolder(), account.client_name)
    else:
        from plaud_provider.quota.sql_store import SqlStore

        store = SqlStore(shared, base_url=account.base_url, client_id=account.client_id)
    seen = store.look()
    if seen is None:
        return None
    quota, now = seen
    rate = Rate(requests_per_minute)
    spare = quota.spare(now=now, rate=rate)
    pause = max(quota.paused_until, quota.opens_at) - now
    return Usage(quota.used, quota.limit(now=now, rate=rate), int(spare), min(rate.minute, max(0.0, pause)))


def missing_connection(budget_conn_id: str) -> AirflowNotFoundException:
    """Say that there is no connection to share the quota through."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    return AirflowNotFoundException(
        f"budget_conn_id: there is no Airflow connection {budget_conn_id!r}, through which the hosts are to "
        "share the quota of requests. Create it, or take budget_conn_id out of the Plaud connection's "
        "extra. Nothing was sent."
    )


def quota_store(account: Account, shared: Connection | None = None, *, minute: float = 60.0) -> QuotaStore:
    """
    Return where a client's quota is kept; for all who ask in this process it is the same object.

    :param account: Whose quota it is: one for each base URL and client id.
    :param shared: Airflow connection of the SQL database that several hosts share; ``None`` for a file that
        the processes of this host share. Not to be called on an event loop.
    :param minute: Seconds of a minute.
    :raises PlaudConfigurationError: if ``shared`` is no connection that can keep a quota.
    """
    folder = PrivateFolder()
    # A child of fork() must not use the database connections of its parent.
    key = (os.getpid(), folder.path, account.base_url, account.client_id, _identity(shared), minute)
    with _OPENING:
        if key not in _STORES:
            _STORES[key] = _open(account, folder, shared, minute)
        return _STORES[key]


def _open(account: Account, folder: PrivateFolder, shared: Connection | None, minute: float) -> QuotaStore:
    store: QuotaStore = FallbackStore(
        FileStore(folder, account.client_name),
        MemoryStore(),
        consequence="Until then each process sends one request a minute, as it cannot know of the others. "
        f"Make {folder.path} a folder of this user's own (mode 0700); end processes that have been stopped.",
        rest_seconds=minute,
    )
    if shared is not None:
        from plaud_provider.quota.sql_store import SqlStore

        store = FallbackStore(
            SqlStore(shared, base_url=account.base_url, client_id=account.client_id),
            store,
            consequence="Until then each host sends one request a minute, as it cannot know of the others.",
            rest_seconds=minute,
        )
    return store


def _identity(shared: Connection | None) -> str | None:
    """Return a hash of a connection's fields: one that was changed, such as its password, is another one."""
    if shared is None:
        return None
    names = ("conn_id", "conn_type", "host", "port", "schema", "login", "password", "extra")
    return hashlib.sha256(repr([getattr(shared, name) for name in names]).encode()).hexdigest()
