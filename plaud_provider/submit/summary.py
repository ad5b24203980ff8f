"""What a run is going to do, and what that costs, in one line."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from plaud_provider.exceptions import PlaudError, PlaudInputError
from plaud_provider.recordings.length import duration

if TYPE_CHECKING:
    from plaud_provider.hooks.connection import PlaudConnection

log = logging.getLogger(__name__)

_PRICE = re.compile(r"\s*(?P<amount>\d+(?:\.\d+)?)\s*(?P<currency>[^\d\s.,][^\d]{0,15}?)?\s*")
#: How what is always said is counted, and what is said where there is any.
_ALWAYS = {"landed_before": "landed before", "waiting": "waiting"}
_IF_ANY = {
    "refused": "refused",
    "failed_before": "failed before",
    "unknown_before": "of unknown outcome",
    "expired_before": "expired",
    "changed_left": "changed and left out",
    "left": "left for another run",
}


class Price(NamedTuple):
    """
    What an hour of audio costs.

    :param per_hour: The amount.
    :param currency: In which currency, as it is to be shown; empty if nobody said.
    """

    per_hour: float
    currency: str

    def of(self, hours: float) -> str:
        """Return what so many hours cost, in words."""
        return f"about {hours * self.per_hour:,.2f} {self.currency}".rstrip()


def validate_price(value: object, where: str = "price_per_hour") -> Price | None:
    """
    Return what an hour of audio costs; ``None`` if nobody said.

    :param value: A number, or text such as ``0.28 USD``.
    :param where: What it is given as, for the message.
    :raises PlaudInputError: if it is none; nothing was sent.
    """
    text = "" if value is None else str(value).strip()
    if text in ("", "None"):
        return None
    found = None if isinstance(value, bool) else _PRICE.fullmatch(text)
    amount = float(found["amount"]) if found else math.nan
    if found is None or not math.isfinite(amount):
        raise PlaudInputError(
            f"{where}: {text!r} is no price. Write what an hour of audio costs as in '0.28 USD'. Nothing was "
            "sent."
        )
    return Price(amount, found["currency"] or "")


def configured_price() -> Price | None:
    """
    Return what Airflow's configuration says that an hour of audio costs, ``[plaud] price_per_hour``.

    :raises PlaudInputError: if that is no price.
    """
    from airflow.providers.common.compat.sdk import conf

    return validate_price(conf.get("plaud", "price_per_hour", fallback=None), "[plaud] price_per_hour")


def known_price(given: object, plaud: PlaudConnection) -> Price | None:
    """
    Return what an hour of audio costs, by the argument, the connection or the configuration.

    :param given: The argument ``price_per_hour``.
    :param plaud: The connection of the client that pays.
    :raises PlaudInputError: if the argument is no price; nothing was sent.
    """
    if (price := validate_price(given)) is not None:
        return price
    try:
        of_connection = validate_price(
            plaud.settings.price_per_hour, f"Connection {plaud.plaud_conn_id!r}: price_per_hour"
        )
        return of_connection or configured_price()
    except PlaudError as problem:
        # A price is only spoken of.
        log.warning("%s", problem)
        return None


def plan_in_words(counts: Mapping[str, float], price: Price | None) -> str:
    """
    Return what becomes of every recording of a run or a chunk.

    :param counts: How many there are of each kind.
    :param price: What an hour of audio costs.
    """
    hours = counts["audio_hours"]
    parts = [f"{counts[name]:g} {words}" for name, words in _ALWAYS.items()]
    changed = counts.get("changed", 0) - counts.get("changed_left", 0)
    parts.append(f"{counts['new']:g} new" + f" ({changed:g} of them changed)" * (changed > 0))
    parts.append(f"{duration(hours * 3600)} of audio" + (f" for {price.of(hours)}" if price else ""))
    parts += [f"{counts[name]:g} {words}" for name, words in _IF_ANY.items() if counts.get(name)]
    return f"{counts['total']:g} recordings: {', '.join(parts)}."
