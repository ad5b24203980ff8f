from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.retry import RetryPolicy, parse_retry_after

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 400, 999_999_999.0),
        ("1.5", 1.5),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        ("Fri, 15 Jan 2027 08:01:30 +0000", 90.0),
        ("Friday, 15-Jan-27 08:01:30 GMT", 90.0),
        ("Fri Jan 15 08:01:30 2027", 90.0),
        ("15 Jan 2027 10:01:30 +0200", 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("1.5.5", None),
        ("1e9", None),
        ("soon", None),
        ("१२", None),
        ("Fri, 99 Jan 2027 08:01:30 GMT", None),
        ("Fri, 15 Jan 2027 08:01:30 +9999", None),
    ],
)
def test_both_forms_of_retry_after_are_read(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=NOW) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30, 90", 90.0),
        ("90,30", 90.0),
        ("0.5, 1.25", 1.25),
        ("soon, 30", 30.0),
        ("30, Fri, 15 Jan 2027 08:01:30 GMT", 90.0),
        ("Fri, 15 Jan 2027 08:01:30 GMT, 30", 90.0),
        ("Fri, 15 Jan 2027 08:01:30 GMT, Friday, 15-Jan-27 08:01:00 GMT", 90.0),
    ],
)
def test_of_several_the_longest_counts(value: str, seconds: float) -> None:
    assert parse_retry_after(value, now=NOW) == seconds


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9998, 1, 1)))
def test_every_http_date_is_read(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    written = moment.strftime("%a, %d %b ") + f"{moment.year:04d}" + moment.strftime(" %H:%M:%S GMT")

    assert parse_retry_after(written, now=NOW) == max(0.0, moment.timestamp() - NOW)


@given(st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]?\w+", fullmatch=True))
def test_any_text_is_a_number_of_seconds_or_nothing(value: str) -> None:
    seconds = parse_retry_after(value, now=NOW)

    assert seconds is None or 0 <= seconds < float("inf")


@given(st.integers(1, 2000), st.integers())
def test_a_backoff_is_anything_up_to_its_bound(attempt: int, seed: int) -> None:
    policy = RetryPolicy(rng=random.Random(seed))

    assert 0 <= policy.backoff(attempt) <= min(30.0, 2.0 ** min(attempt - 1, 10))


@given(st.integers(1, 10**6), st.integers())
def test_a_wait_is_never_shorter_than_was_asked_for_up_to_the_clamp(asked: int, seed: int) -> None:
    policy = RetryPolicy(now=lambda: NOW, rng=random.Random(seed))
    clamped = min(asked, 120)

    wait = policy.retry_after({"retry-after": str(asked)}, 1)

    assert clamped <= wait <= clamped + max(0.25, clamped * 0.1)


def test_many_that_were_told_the_same_do_not_come_back_together() -> None:
    policy = RetryPolicy(now=lambda: NOW, rng=random.Random(1))
    asked = {"retry-after": formatdate(NOW + timedelta(minutes=1).total_seconds(), usegmt=True)}

    assert len({round(policy.retry_after(asked, 1), 3) for _ in range(100)}) > 90


@pytest.mark.parametrize("server_ahead", [-36_000.0, -300.0, 300.0, 36_000.0])
def test_a_date_is_one_by_the_clock_of_who_sends_it(server_ahead: float) -> None:
    policy = RetryPolicy(now=lambda: NOW, rng=random.Random(1))
    told = {
        "date": formatdate(NOW + server_ahead, usegmt=True),
        "retry-after": formatdate(NOW + server_ahead + 10, usegmt=True),
    }

    assert 10 <= policy.retry_after(told, 1) <= 11
