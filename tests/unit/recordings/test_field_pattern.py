from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.field_pattern import FieldPattern, Fields

DAILY = "{agent}/{date:%Y-%m-%d}/{call_id}.mp3"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://calls/anna/2024-03-01/17.mp3",
        "s3://aws_default@calls/archive/old/anna/2024-03-01/17.mp3",
        "abfs://conn@calls@account.dfs.core.windows.net/anna/2024-03-01/17.mp3",
        "/data/anna/2024-03-01/17.mp3",
        "file:///anna/2024-03-01/17.mp3",
        "https://calls.example/x/anna/2024-03-01/17.mp3",
    ],
)
def test_pattern_is_that_of_the_end_of_the_path_in_any_kind_of_storage(uri: str) -> None:
    found = FieldPattern(DAILY).match(uri)

    assert found == Fields(
        {"agent": "anna", "date": "2024-03-01", "call_id": "17"}, started_at=None, date=date(2024, 3, 1)
    )


@pytest.mark.parametrize(
    "uri",
    [
        "s3://calls/2024-03-01/17.mp3",
        "s3://calls/anna/2024-3-1-1/17.mp3",
        "s3://calls/anna/2024-02-30/17.mp3",
        "s3://calls/anna/2024-03-01/17.wav",
        "s3://calls/anna/2024-03-01/17.mp3.old",
        "s3://calls/anna/2024-03-01/",
        "s3://anna/2024-03-01/17.mp3",
        "",
    ],
)
def test_reference_that_does_not_match_says_nothing(uri: str) -> None:
    # Neither bucket nor host is a part of the path.
    assert FieldPattern(DAILY).match(uri) is None


@pytest.mark.parametrize(
    ("pattern", "path", "values", "started_at", "day"),
    [
        ("{agent}_{call}.mp3", "a_b_c.mp3", {"agent": "a", "call": "b_c"}, None, None),
        ("*/{call}.mp3", "x/a b%20.mp3", {"call": "a b%20"}, None, None),
        ("{d:%Y/%m/%d}/*.wav", "2024/03/01/x.wav", {"d": "2024-03-01"}, None, date(2024, 3, 1)),
        (
            "year={y:%Y}/month={m:%m}/day={d:%d}/{id}.wav",
            "year=2024/month=3/day=01/7.wav",
            {"y": "2024", "m": "3", "d": "01", "id": "7"},
            None,
            date(2024, 3, 1),
        ),
        (
            "{date:%d%m%Y}/{time:%H%M%S}-{id}.wav",
            "01032024/091500-7.wav",
            {"date": "2024-03-01", "time": "091500", "id": "7"},
            datetime(2024, 3, 1, 9, 15),
            date(2024, 3, 1),
        ),
        # A day that other orders would read in another way.
        ("{date:%Y%d%m}.wav", "20240103.wav", {"date": "2024-03-01"}, None, date(2024, 3, 1)),
        (
            "{started:%Y%m%dT%H%M%S}.wav",
            "20240301T091500.wav",
            {"started": "2024-03-01T09:15:00"},
            datetime(2024, 3, 1, 9, 15),
            date(2024, 3, 1),
        ),
        ("{day:%Y%j}.wav", "2024061.wav", {"day": "2024-03-01"}, None, date(2024, 3, 1)),
        ("{t:%d. %B %Y}.wav", "1. March 2024.wav", {"t": "2024-03-01"}, None, date(2024, 3, 1)),
        ("{名}.wav", None, None, None, None),
        ("a+b ({id}).wav", "a+b (7).wav", {"id": "7"}, None, None),
        ("{id}.wav", "日本\n語.wav", {"id": "日本\n語"}, None, None),
    ],
)
def test_formats_tell_the_day_and_the_time_whichever_fields_they_are_in(
    pattern: str, path: Any, values: Any, started_at: Any, day: Any
) -> None:
    if path is None:
        with pytest.raises(PlaudInputError, match="letters of ASCII"):
            FieldPattern(pattern)
        return
    assert FieldPattern(pattern).match(f"s3://calls/{path}") == Fields(values, started_at, day)


def test_names_in_a_url_are_decoded() -> None:
    found = FieldPattern("{agent}/{id}.mp3").match("https://calls.example/Anna%20L%C3%B6w/7.mp3")

    assert found is not None
    assert found.values == {"agent": "Anna Löw", "id": "7"}


def test_pattern_of_a_whole_reference_is_matched_from_its_beginning() -> None:
    pattern = FieldPattern("s3://{bucket}/{id}.mp3")

    assert pattern.match("s3://calls/7.mp3") == Fields({"bucket": "calls", "id": "7"})
    assert pattern.match("s3://calls/2024/7.mp3") is None


def test_regular_expression_is_searched_for_and_a_group_may_be_missing() -> None:
    pattern = FieldPattern(r"/(?P<agent>[a-z]+)(-(?P<team>\d+))?/(?P<date>\d{4}-\d\d-\d\d)/")

    assert pattern.match("s3://c/x/anna-7/2024-03-01/1.mp3") == Fields(
        {"agent": "anna", "team": "7", "date": "2024-03-01"}
    )
    assert pattern.match("s3://c/anna/2024-03-01/1.mp3") == Fields({"agent": "anna", "date": "2024-03-01"})
    assert pattern.match("s3://c/1.mp3") is None


@pytest.mark.parametrize(
    "pattern",
    [
        "calls/*.mp3",
        "{}/x.mp3",
        "{a b}.mp3",
        "{a}/{a}.mp3",
        "{a:}.mp3",
        "{a:%Q}.mp3",
        "{a:%Y%}.mp3",
        "{a:%H%M}.mp3",
        "{a:%Y-%m}.mp3",
        "{a:%Y%m%d}/{b:%Y}.mp3",
        "{a.mp3",
        "a}.mp3",
        "{{a}}.mp3",
        "(?P<a>[.mp3",
        "(?P<a>x)(?P<a>y)",
        r"(\d+)",
    ],
)
def test_what_is_no_pattern_is_refused_in_words_that_help(pattern: str) -> None:
    with pytest.raises(PlaudInputError, match=r"^metadata_pattern: .*Write it as in .*Nothing was sent"):
        FieldPattern(pattern)
