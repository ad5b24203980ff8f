"""Whose consent a run goes by that nobody has told what to pay for."""

from __future__ import annotations

from plaud_provider.api.arguments import optional
from plaud_provider.exceptions import PlaudInputError


def folder_to_pay_for(named: object, variable: str) -> str:
    """
    Return the folder whose recordings a run may pay for.

    That is the one that the run itself names, else the one that somebody has agreed to in advance, by
    setting an Airflow variable. There is no other default: Airflow starts a run when a DAG is unpaused, and
    drops what was typed into a form of a backfill, and neither is a wish to pay.

    For templates, as one of a DAG's ``user_defined_macros``.

    :param named: What the run's own parameters say; empty if nothing.
    :param variable: Name of the Airflow variable that holds a folder, and with it the consent.
    :raises PlaudInputError: if there is neither; nothing was sent.
    """
    folder = None if named is None else optional(str(named))
    if folder is not None:
        return folder
    from airflow.sdk import Variable

    agreed: str | None = optional(Variable.get(variable, default=None))
    if agreed is None:
        raise PlaudInputError(
            f"This run names no folder of recordings, and the Airflow variable {variable!r} is not set, so "
            "nobody has agreed to pay for any. Name the folder in the run's own parameters, or set that "
            "variable to the folder that scheduled runs may pay for. Nothing was sent."
        )
    return agreed
