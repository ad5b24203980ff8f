from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from plaud_provider.recordings.description import NOTHING, Description, describe


def described(*columns: str, **fields: Any) -> Description:
    return describe(fields, columns, UTC)


def test_no_fields_describe_nothing() -> None:
    assert described() == NOTHING
    assert described("agent") == NOTHING._replace(columns={"agent": None})


def test_fields_are_a_json_object_and_the_chosen_ones_are_text() -> None:
    found = described("agent", "score", "tags", "team", agent="安娜", score=7, tags=["a", "b"], line=True)

    assert json.loads(found.json or "") == {"agent": "安娜", "score": 7, "tags": ["a", "b"], "line": True}
    assert "安娜" in (found.json or "")
    assert found.columns == {"agent": "安娜", "score": "7", "tags": '["a", "b"]', "team": None}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "a\ud800b", {"x": [float("-inf")]}, b"x"])
def test_whatever_a_value_is_its_json_is_strict_and_utf8(value: Any) -> None:
    found = describe({"value": value, "n\ud800": {"m\udfff": value}}, ["value"], UTC)

    json.loads((found.json or "").encode(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("field", "value", "started_at", "day"),
    [
        ("started_at", "2024-03-01T09:15:00", datetime(2024, 3, 1, 8, 15, tzinfo=UTC), date(2024, 3, 1)),
        ("started_at", "2024-03-01 23:59", datetime(2024, 3, 1, 22, 59, tzinfo=UTC), date(2024, 3, 1)),
        ("started_at", "2024-03-01T09:15:00Z", datetime(2024, 3, 1, 9, 15, tzinfo=UTC), date(2024, 3, 1)),
        (
            "recording_started_at",
            "20240301T001500",
            datetime(2024, 2, 29, 23, 15, tzinfo=UTC),
            date(2024, 3, 1),
        ),
        ("recording_date", "2024-03-01", None, date(2024, 3, 1)),
        ("date", "20240301", None, date(2024, 3, 1)),
        ("date", "soon", None, None),
        ("date", "0001-01-01", None, None),
        ("started_at", "0001-01-01T00:00:00+14:00", None, None),
        ("started_at", 17, None, None),
        ("day", "2024-03-01", None, None),
    ],
)
def test_times_are_read_in_the_zone_that_is_theirs(
    field: str, value: Any, started_at: datetime | None, day: date | None
) -> None:
    found = describe({field: value}, (), ZoneInfo("Europe/Berlin"))

    assert found.started_at == started_at
    assert found.date == day
    assert json.loads(found.json or "") == {field: value}


def test_day_that_is_told_outranks_that_of_the_start() -> None:
    moment = datetime(2024, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=9)))

    assert described(started_at=moment, date=date(2024, 2, 29)).date == date(2024, 2, 29)
    assert described(started_at=moment).date == date(2024, 3, 1)
