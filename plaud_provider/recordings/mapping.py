"""
What mapped tasks need: no signature in the DAG as Airflow stores it, and a label that fails nobody.

Airflow keeps the literal arguments of ``partial()`` and ``expand()`` in its database, in plain text, without
making the operator that would wrap them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.mappedoperator import OperatorPartial

from plaud_provider.recordings.reference import wrapped

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import MappedOperator

#: Characters of a label that Airflow's database takes.
LONGEST_LABEL = 250


class UnsignedPartial(OperatorPartial):
    """
    What ``partial()`` returns, with the references among its arguments wrapped.

    :param made: What Airflow's ``partial()`` has returned.
    :param names: The arguments that are references to recordings.
    """

    def __init__(self, made: OperatorPartial, *names: str) -> None:
        # It goes on in this one; Airflow warns of one that is never expanded.
        made._expand_called = True
        self._names = names
        super().__init__(
            operator_class=made.operator_class, kwargs=self._wrapped(made.kwargs), params=made.params
        )

    def expand(self, **mapped_kwargs: Any) -> MappedOperator:
        """Map, as any operator does."""
        return super().expand(**self._wrapped(mapped_kwargs))

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> MappedOperator:
        """Map, as any operator does."""
        if isinstance(kwargs, Sequence):
            kwargs = [self._wrapped(one) if isinstance(one, Mapping) else one for one in kwargs]
        return super().expand_kwargs(kwargs, strict=strict)

    def _wrapped(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: wrapped(value) if name in self._names else value for name, value in arguments.items()}


class HarmlessLabel:
    """
    An operator whose ``map_index_template`` does not fail its task.

    Airflow renders it once more after ``execute``, when a recording may have been paid for: a template that
    is wrong fails the task then, and so does one of native values that gives a number
    (apache/airflow#71586). What is rendered here instead is text, and at most as long as Airflow stores.
    """

    def pre_execute(self, context: Any) -> None:
        """Render it for the case that the task fails, whose error it would hide."""
        super().pre_execute(context)  # type: ignore[misc]
        _label(self, context)

    def post_execute(self, context: Any, result: Any = None) -> None:
        """Render it with what ``execute`` has put into the context."""
        super().post_execute(context, result)  # type: ignore[misc]
        _label(self, context)


def _label(task: Any, context: Any) -> None:
    if (template := task.map_index_template) is None or (dag := task.get_dag()) is None:
        return
    try:
        text = dag.get_template_env(force_sandboxed=True).from_string(template).render(context)
    except Exception as error:
        task.log.warning("map_index_template: could not be rendered (%s).", type(error).__name__)
        context["map_index_template"] = None
        return
    text = text[:LONGEST_LABEL]
    # A template of native values takes text for Python: as such it is text again.
    context["plaud_label"] = repr(text) if dag.render_template_as_native_obj else text
    context["map_index_template"] = "{{ plaud_label }}"
