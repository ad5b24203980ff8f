"""
Mapped tasks that leave no signature in the DAG as Airflow stores it.

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
