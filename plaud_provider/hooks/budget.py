"""From a connection's settings to the budget of requests that both hooks keep to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowNotFoundException

from plaud_provider.api.budget import Pace
from plaud_provider.hooks.connection import PlaudSettings
from plaud_provider.hooks.transport import Limits
from plaud_provider.quota.opening import budget_store
from plaud_provider.quota.turns import ClientBudget

if TYPE_CHECKING:
    from airflow.sdk import Connection

#: What a caller may take to note that a submit is being sent, between the grant of a slot and the POST.
NOTE_SECONDS = 60.0


def open_budget(
    settings: PlaudSettings, shared: Connection | None, *, limits: Limits, minute: float, log: Any
) -> ClientBudget:
    """
    Return a hook's budget. Not to be called on an event loop.

    :param settings: The Plaud connection's settings.
    :param shared: The connection that their ``budget_conn_id`` names.
    :param limits: The hook's bounds of one exchange.
    :param minute: Seconds of a minute.
    :param log: The hook's log.
    :raises PlaudConfigurationError: if ``shared`` cannot keep a budget; nothing was sent.
    """
    pace = Pace(
        settings.requests_per_minute, exchange_seconds=limits.total_seconds + NOTE_SECONDS, minute=minute
    )
    store = budget_store(settings.account, shared)
    return ClientBudget(store, pace, client_id=settings.account.client_id, log=log)


def missing_connection(budget_conn_id: str) -> AirflowNotFoundException:
    """Say that there is no connection to share the budget through."""
    return AirflowNotFoundException(
        f"budget_conn_id: there is no Airflow connection {budget_conn_id!r}, through which the hosts are to "
        "share the budget of requests. Create it, or take budget_conn_id out of the Plaud connection's "
        "extra. Nothing was sent."
    )
