"""What may be sent to the API, checked before anything is sent."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from plaud_provider.api.loopback import is_loopback
from plaud_provider.exceptions import PlaudInputError

# Patterns are compiled when they are first needed: each task is a new process.
# Control characters, line separators, and what UTF-8 cannot encode.
_UNPRINTABLE = "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
MAX_ID_CHARACTERS = 255
# RFC 5646 also knows registered languages of 5 to 8 letters; there are none, but "english" would pass as one.
_LANGUAGE = (
    r"[A-Za-z]{2,3}"  # language
    r"(-[A-Za-z]{3}){0,3}"  # extended language
    r"(-[A-Za-z]{4})?"  # script
    r"(-([A-Za-z]{2}|\d{3}))?"  # region
    r"(-([A-Za-z0-9]{5,8}|\d[A-Za-z0-9]{3}))*"  # variants
    r"(-[A-WY-Za-wy-z0-9](-[A-Za-z0-9]{2,8})+)*"  # extensions
    r"(-x(-[A-Za-z0-9]{1,8})+)?"  # private use
)


def as_transcription_id(value: object) -> str | None:
    """
    Return a value as a transcription id; ``None`` if it cannot be one.

    What Plaud calls a recording was paid for, so that any form will do: a string of at most 255 characters
    without control characters, or a whole number. It is quoted where it becomes part of a path.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**MAX_ID_CHARACTERS:
        return str(value)
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_ID_CHARACTERS:
        return None
    return None if re.search(_UNPRINTABLE, value) else value


#: Arguments that name a lake.
LAKE_ARGUMENTS = ("lake_path", "lake_format", "lake_catalog_conn_id")
#: Arguments that are one text each, whichever operator takes them.
_TEXTS = frozenset(
    [
        *("manifest", "plaud_conn_id", "transcripts_table", "segments_table", "on_unknown_submit"),
        *("unreadable", "convert", "upload", "lake_format"),
    ]
)
#: The same, but that they may be left out: then they are ``None``.
_OPTIONAL_TEXTS = frozenset(
    [
        *("path", "results_path", "folder", "pattern", "sql_conn_id", "ledger_conn_id", "region", "schema"),
        *("language", "webhook_url", "model", "detection_level", "recording_id"),
        *("metadata_pattern", "metadata_path", "metadata_timezone"),
        *("lake_path", "lake_catalog_conn_id"),
    ]
)


def as_text(name: str, value: Any) -> Any:
    """
    Return an argument that is one text as such, whatever it was given as.

    Paths (``pathlib.Path``, ``ObjectStoragePath``) are taken, and what ``render_template_as_native_obj``
    makes of text: a number of digits, a list of what is in brackets. What no text can be made of, such as
    the output of a task, stays as it is.

    :param name: Name of the argument, for the message.
    :raises PlaudInputError: for a list of several; nothing was sent.
    """
    if is_path(value):
        return str(value)
    if isinstance(value, (bool, int, float)):
        return str(value)
    if not isinstance(value, (list, tuple)):
        return value
    if not value:
        return None
    if not all(isinstance(item, str) or is_path(item) for item in value):
        # As "[1]", a pattern.
        return str(value)
    if len(value) == 1:
        return str(value[0])
    raise PlaudInputError(f"{name}: takes one text, not a list of {len(value)}. Nothing was sent.")


def is_template(value: object) -> bool:
    """Whether a value is text that Airflow renders when the task runs."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def is_path(value: object) -> bool:
    """Whether a value is a path of Python's or of Airflow's, which is none of Python's."""
    return hasattr(value, "joinpath")


class TextArguments:
    """An operator whose arguments that are text take what :func:`as_text` takes, also from templates."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; Airflow sets what templates rendered in this way, too."""
        if name in _TEXTS:
            value = as_text(name, value)
        elif name in _OPTIONAL_TEXTS:
            value = as_text(name, value)
            value = None if is_unset(value) else value
        super().__setattr__(name, value)


def validate_transcription_id(value: object) -> str:
    """
    Return ``value`` as text, if it is a transcription id that Plaud can be asked for.

    That is what :func:`as_transcription_id` says, but for a path that leads elsewhere (``..``), which a
    gateway that unquotes paths may follow.

    :raises PlaudInputError: if it is not; nothing was sent.
    """
    transcription_id = as_transcription_id(value)
    if transcription_id is not None and {".", ".."}.isdisjoint(re.split(r"[/\\]", unquote(transcription_id))):
        return transcription_id
    shown = repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
    raise PlaudInputError(
        f"transcription_id: {shown} is not a transcription id (such as 'txn_0123'). "
        "Pass what SubmitTranscriptionOperator returned. Nothing was sent."
    )


def validate_transcription_ids(value: object) -> list[str]:
    """
    Return one id, or each of several once, in their order.

    :param value: An id or an iterable of ids, such as the XCom of a mapped task.
    :raises PlaudInputError: if one is not an id; nothing was sent.
    """
    if isinstance(value, str):
        if value.lstrip().startswith(("[", "(")):
            raise PlaudInputError(
                "transcription_id: got a list that a template has turned into text. Pass the task's output "
                "itself (transcription_id=submit.output), or set render_template_as_native_obj=True on the "
                "DAG. Nothing was sent."
            )
        return [validate_transcription_id(value)]
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise PlaudInputError(
            f"transcription_id: takes an id or a list of ids, not a {type(value).__name__}. Pass what "
            "SubmitTranscriptionOperator returned (submit.output); a sensor returns counts. Nothing was sent."
        )
    return list(dict.fromkeys(validate_transcription_id(item) for item in value))


def is_unset(value: object) -> bool:
    """Whether a value is none, or what a template makes of an unset one: nothing, or the word ``None``."""
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def optional(value: str | None) -> str | None:
    """Return a text; ``None`` if it is unset."""
    return None if is_unset(value) else value


def warehouse_of(sql_conn_id: str | None, lake_path: object) -> str | None:
    """Return the connection of the warehouse; left out, ``warehouse_default``, or none if there is a lake."""
    return "warehouse_default" if sql_conn_id is None and lake_path is None else sql_conn_id


def validate_boolean(name: str, value: object) -> bool:
    """
    Read a boolean that may have been rendered to text by a template.

    :param name: Name of the argument, for the message.
    :raises PlaudInputError: if it is none; nothing was sent.
    """
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off", "none", ""):
        return False
    raise PlaudInputError(f"{name}: {value!r} is neither true nor false. Nothing was sent.")


def validate_number(name: str, value: object, *, minimum: float) -> float:
    """
    Read a number that may have been rendered to text by a template.

    :param name: Name of the argument, for the message.
    :param minimum: The least that it may be.
    :raises PlaudInputError: if it is none, or less; nothing was sent.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if math.isfinite(number) and number >= minimum:
        return number
    raise PlaudInputError(f"{name}: {value!r} is not a number of at least {minimum:g}. Nothing was sent.")


def optional_number(name: str, value: object, *, minimum: float) -> float | None:
    """Return ``None`` for what a template makes of an unset value, else as :func:`validate_number`."""
    return None if is_unset(value) else validate_number(name, value, minimum=minimum)


def split_words(value: object) -> list[str]:
    """Return a list of words, also one that a template has rendered to text."""
    if value is None or isinstance(value, str):
        return re.findall(r"[^\s,\[\]()'\"]+", optional(value) or "")
    return [str(word) for word in value] if isinstance(value, Iterable) else [str(value)]


def validate_words(name: str, value: object, allowed: Collection[str]) -> tuple[str, ...]:
    """
    Read a list of words, also one that a template has rendered to text.

    :param name: Name of the argument, for the message.
    :param allowed: The words that it may have.
    :raises PlaudInputError: if it has another one; nothing was sent.
    """
    words = split_words(value)
    for word in words:
        if word not in allowed:
            raise PlaudInputError(
                f"{name}: {word!r} is none of {', '.join(sorted(allowed))}. Nothing was sent."
            )
    return tuple(dict.fromkeys(words))


def validate_language(value: str | None) -> str | None:
    """
    Return ``value`` if it is a well-formed BCP-47 language tag or ``None`` (detected by Plaud).

    :raises PlaudInputError: if it is not; nothing was sent.
    """
    if value is None or (isinstance(value, str) and re.fullmatch(_LANGUAGE, value, re.ASCII)):
        return value
    raise PlaudInputError(
        f"language: {value!r} is not a language tag. Use a BCP-47 code such as 'en', 'ja', 'zh' or 'pt-BR', "
        "or leave it out to have the language detected. Nothing was sent."
    )


def validate_webhook_url(value: str | None) -> str | None:
    """
    Return ``value`` if Plaud may post results to it, or ``None``.

    :raises PlaudInputError: if it is not an https URL (http on loopback); nothing was sent.
    """
    if value is None:
        return None
    try:
        url = urlsplit(value)
        host = url.hostname or ""
    except ValueError:
        url, host = urlsplit(""), ""
    if (
        host
        and "@" not in url.netloc
        and (url.scheme == "https" or (url.scheme == "http" and is_loopback(host)))
    ):
        return value
    raise PlaudInputError(
        f"webhook_url: a URL with scheme {url.scheme!r} and host {host!r} is not one that Plaud can post to. "
        "Use an https:// URL without user information. Nothing was sent."
    )
