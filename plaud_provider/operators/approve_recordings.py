"""Ask a person before much is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException

from plaud_provider.api.arguments import optional_number, validate_boolean
from plaud_provider.operators.chunk import pulled
from plaud_provider.recordings.length import duration

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.submit.summary import Price

#: What Airflow shows of the task, unless somebody gives it a ``doc_md``.
_DOC = (
    "Sums the plan up. Above `approve_above_hours` it waits for a person: *Approve* under Required Actions "
    "goes on and **pays**, *Reject* ends the run. Clear it to ask again."
)
APPROVE = "Approve"
REJECT = "Reject"
#: What a plan tells besides what is new, as people read it.
_REST = {
    "landed_before": "landed before",
    "waiting": "at Plaud already",
    "refused": "that cannot be submitted",
    "failed_before": "failed before",
    "unknown_before": "of unknown outcome",
    "expired_before": "expired",
}


class ApproveRecordingsOperator(HITLOperator):
    """
    Stop a run after its plan until a person approves of it, if it would submit many hours of audio.

    It waits in Airflow's own human-in-the-loop step: the plan, in numbers and money, is under *Required
    Actions* of the run. Above ``approve_above_hours`` it goes on by a click on *Approve*, and ends by one on
    *Reject*: then there is nothing to do for the tasks behind it, and nothing was sent. Up to that, or
    without a limit, it goes on by itself. Nothing is billed by this task, and it needs no worker while it
    waits (Airflow 3.2: a triggerer).

    **A clear** asks again. The files can change between plan and submit; ``max_audio_hours`` holds whatever
    was approved.

    :param manifests: The paths of the chunks, as ``ListRecordingsOperator`` returned them (templated).
    :param plan_task_id: The tasks that planned, ``PlanRecordingsOperator``.
    :param list_task_id: The task that listed.
    :param approve_above_hours: Up to so many hours of new audio nobody is asked; 0 or more; ``None`` for any
        number (templated).
    :param price_per_hour: What an hour of audio costs, as in ``0.28 USD``, to say what the plan costs
        (templated); by default as the connection has it.
    :param plaud_conn_id: Connection of type ``plaud`` (templated).
    :param plan_only: Whether nothing is going to be submitted: then nobody is asked (templated).
    :param subject: The question, as people see it (templated).
    :return: The paths of the chunks; none if it was rejected.
    :raises PlaudInputError: if a number is none; nothing was sent.
    """

    template_fields: Sequence[str] = (
        "manifests",
        "approve_above_hours",
        "price_per_hour",
        "plaud_conn_id",
        "plan_only",
        "subject",
    )
    ui_color = "#fce8e6"

    def __init__(
        self,
        *,
        manifests: Any,
        plan_task_id: str,
        list_task_id: str,
        approve_above_hours: float | str | None,
        price_per_hour: float | str | None = None,
        plaud_conn_id: str = "plaud_default",
        plan_only: bool | str = False,
        subject: str = "Transcribe these recordings, and pay for them?",
        trigger_rule: str = "none_failed",
        **kwargs: Any,
    ) -> None:
        # That of the wait for a person would be one for the task itself.
        kwargs["execution_timeout"] = None
        kwargs.setdefault("doc_md", _DOC)
        super().__init__(
            subject=subject, options=[APPROVE, REJECT], multiple=False, trigger_rule=trigger_rule, **kwargs
        )
        self.manifests = manifests
        self.plan_task_id = plan_task_id
        self.list_task_id = list_task_id
        self.approve_above_hours = approve_above_hours
        self.price_per_hour = price_per_hour
        self.plaud_conn_id = plaud_conn_id
        self.plan_only = plan_only

    def execute(self, context: Context) -> list[str]:
        """Go on if the plan is small; else ask."""
        from plaud_provider.hooks.connection import PlaudConnection
        from plaud_provider.submit.summary import known_price

        manifests = self._chunks()
        most = optional_number("approve_above_hours", self.approve_above_hours, minimum=0)
        plans = [*pulled(context, self.plan_task_id), *pulled(context, self.list_task_id)]
        hours = sum(plan.get("audio_hours", 0.0) for plan in plans)
        if validate_boolean("plan_only", self.plan_only) or most is None or hours <= most:
            self.log.info("%.2f hours of new audio: nobody needs to be asked.", hours)
            return manifests
        price = known_price(self.price_per_hour, PlaudConnection(self.plaud_conn_id))
        self.body = question_in_words(plans, most=most, price=price)
        self.log.info("Asking whether to go on. %s", self.body)
        super().execute(context)
        raise AssertionError("unreachable")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> list[str]:
        """
        Go on, or leave nothing to do.

        :param context: The task's context.
        :param event: What a person has chosen.
        """
        answer = super().execute_complete(context, event)
        who = answer["responded_by_user"] or {}
        chosen = answer["chosen_options"]
        self.log.info("%s by %s.", "".join(chosen), who.get("name") or "a default")
        return self._chunks() if chosen == [APPROVE] else []

    def _chunks(self) -> list[str]:
        if self.manifests is None:
            raise AirflowSkipException("Nothing was listed.")
        return list(self.manifests)


def question_in_words(plans: Sequence[Mapping[str, float]], *, most: float, price: Price | None) -> str:
    """
    Return a plan as people decide on it, in Markdown.

    :param plans: Counts of the listing and of the plans of all chunks.
    :param most: Up to so many hours nobody is asked.
    :param price: What an hour costs; ``None``: that is not known.
    """

    def total(name: str) -> float:
        return sum(plan.get(name, 0) for plan in plans)

    hours = total("audio_hours")
    lines = [f"**{total('new'):,.0f} recordings are new, with {duration(hours * 3600)} of audio.**"]
    if price is not None:
        lines.append(f"That costs **{price.of(hours)}**.")
    else:
        lines.append("What an hour costs is not known here (price_per_hour).")
    rest = [f"{total(name):,.0f} {words}" for name, words in _REST.items() if total(name)]
    if rest:
        lines.append(f"Besides: {', '.join(rest)}; they cost nothing.")
    lines.append(f"Asked as it is more than {most:g} hours (approve_above_hours).")
    return "\n\n".join(lines)
