"""What operators are told of recordings beside their transcripts, checked as early as can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plaud_provider.api.arguments import is_template

if TYPE_CHECKING:
    from plaud_provider.recordings.describer import Describer

_ARGUMENTS = ("metadata", "metadata_pattern", "metadata_path", "metadata_columns", "metadata_timezone")


def describer_of(operator: Any) -> Describer | None:
    """
    Return what describes an operator's recordings; ``None`` if its arguments say nothing.

    :param operator: The operator, with its templates rendered.
    :raises PlaudInputError: if one of its arguments cannot be; nothing was sent.
    """
    given = {name: getattr(operator, name) for name in _ARGUMENTS}
    if not any(given.values()):
        return None
    from plaud_provider.recordings.describer import Describer

    return Describer(**given)


def refuse_wrong_metadata(operator: Any) -> None:
    """
    Refuse arguments when a DAG is parsed, before anything is paid for, as far as they are no templates.

    :param operator: The operator, as it is made.
    :raises PlaudInputError: if one of them cannot be.
    """
    given = {name: getattr(operator, name) for name in _ARGUMENTS}
    said = {name: value for name, value in given.items() if value and not _is_open(value)}
    if said:
        from plaud_provider.recordings.describer import Describer

        Describer(**said)


def _is_open(value: object) -> bool:
    """Whether a value is known only when the task runs: a template, or the output of another task."""
    return is_template(value) or not isinstance(value, (str, dict, list, tuple))
