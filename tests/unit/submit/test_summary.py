"""One line that says what becomes of every recording, and what it costs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.submit.summary import Price, plan_in_words, validate_price

NONE = {"landed_before": 0, "waiting": 0, "new": 0, "refused": 0, "audio_hours": 0.0}


def test_every_kind_is_told_and_they_add_up() -> None:
    counts = {
        "total": 45,
        "landed_before": 1,
        "waiting": 2,
        "new": 3,
        "changed": 10,
        "changed_left": 9,
        "audio_hours": 1.2,
        "refused": 4,
        "failed_before": 5,
        "unknown_before": 6,
        "expired_before": 7,
        "left": 8,
    }

    said = plan_in_words(counts, Price(0.28, "USD"))

    assert said == (
        "45 recordings: 1 landed before, 2 waiting, 3 new (1 of them changed), 1 h 12 min of audio for about "
        "0.34 USD, 4 refused, 5 failed before, 6 of unknown outcome, 7 expired, 9 changed and left out, "
        "8 left for another run."
    )
    numbers = re.findall(r"(?:: |, )(\d+) (?!h |min )", said)
    assert sum(map(int, numbers)) == 45


@pytest.mark.parametrize(
    ("hours", "words"),
    [(0.0, "0 s"), (0.004, "14 s"), (0.05, "3 min"), (26.5, "26 h 30 min"), (9000, "9,000 h 0 min")],
)
def test_audio_is_a_length_and_no_money_is_spoken_of_without_a_price(hours: float, words: str) -> None:
    said = plan_in_words({**NONE, "total": 1, "new": 1, "audio_hours": hours}, None)

    assert said == f"1 recordings: 0 landed before, 0 waiting, 1 new, {words} of audio."


@pytest.mark.parametrize(
    ("value", "price"),
    [
        ("0.28 USD", Price(0.28, "USD")),
        ("0.28", Price(0.28, "")),
        (0.28, Price(0.28, "")),
        (3, Price(3, "")),
        ("42円", Price(42, "円")),
        (" 0.25 € ", Price(0.25, "€")),
        ("0 US dollars", Price(0, "US dollars")),
        ("", None),
        ("None", None),
        (None, None),
    ],
)
def test_price_is_a_number_perhaps_with_a_currency(value: Any, price: Price | None) -> None:
    assert validate_price(value) == price


@pytest.mark.parametrize("value", ["cheap", "USD", "-1 USD", "0,28 EUR", "nan", True, "1 2", [1]])
def test_what_is_no_price_is_refused(value: Any) -> None:
    with pytest.raises(PlaudInputError, match=r"^price_per_hour: .*'0.28 USD'.*Nothing was sent"):
        validate_price(value)


def test_large_sums_are_told_to_the_hundredth() -> None:
    assert Price(0.28, "USD").of(50_000) == "about 14,000.00 USD"
    assert Price(0.28, "").of(0.1) == "about 0.03"
