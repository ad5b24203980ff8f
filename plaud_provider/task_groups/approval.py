"""The step of an archive that asks a person before much is paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from plaud_provider.operators.plan_recordings import PlanRecordingsOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, XComArg

#: Arguments of the group that are those of this step.
ARGUMENTS = ("approve_above_hours", "price_per_hour", "plaud_conn_id", "plan_only")


class Arguments(Protocol):
    """Returns what of the group's arguments an operator takes, with others."""

    def __call__(self, operator: type[BaseOperator], **others: Any) -> dict[str, Any]:
        """Return them."""


def ask_before(
    listing: BaseOperator, given: dict[str, Any], arguments: Arguments, task_arguments: dict[str, Any]
) -> XComArg:
    """
    Add tasks ``plan`` and ``approve`` behind a listing, and return the chunks that are approved of.

    :param listing: The task that lists.
    :param given: Arguments of the group.
    :param arguments: Returns those of an operator.
    :param task_arguments: Arguments for all tasks.
    """
    # Only where it is asked for: Airflow's module takes a while to import, in each task's process.
    from plaud_provider.operators.approve_recordings import ApproveRecordingsOperator

    of_plan = arguments(PlanRecordingsOperator, **task_arguments)
    of_plan.pop("plan_only", None)
    plan = PlanRecordingsOperator.partial(task_id="plan", **of_plan).expand(manifest=listing.output)
    approve = ApproveRecordingsOperator(
        task_id="approve",
        manifests=listing.output,
        plan_task_id=plan.task_id,
        list_task_id=listing.task_id,
        **task_arguments,
        **{name: given[name] for name in ARGUMENTS if name in given},
    )
    plan >> approve
    return approve.output
