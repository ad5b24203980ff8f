"""Transcripts as files, read back by parsers that know nothing of us and by FFmpeg."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

import av
import pysubs2
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.models import Segment, Status, Transcription
from plaud_provider.exceptions import PlaudInputError

#: What SRT and WebVTT would take for markup, for the time of a subtitle, for its number or for its end.
HOSTILE = (
    "<b>bold</b> & <script>alert(1)</script>",
    "{\\an8}{\\i1}above",
    "00:00:01,000 --> 00:00:02,000",
    "00:00:01.000 --> 00:00:02.000",
    "42",
    "7\n\n8\n00:00:09,000 --> 00:00:10,000\nforged",
    "WEBVTT",
    "NOTE a comment",
    "line\u2028separator\x0bvertical\x1cfile\x85next",
    "bell\x07null\x00escape\x1b[31m",
    "שלום עולם",
    "日本語" * 60,
    "e\u0301" * 90,
)


def transcription(
    *segments: tuple[float | None, float | None, str | None, str],
    text: str | None = None,
    duration: float | None = None,
) -> Transcription:
    return Transcription(
        "txn_1",
        Status.COMPLETED,
        "completed",
        text=text,
        duration_seconds=duration,
        segments=tuple(Segment(index, *segment) for index, segment in enumerate(segments)),
    )


def plain(text: str) -> str:
    """What is left of a text if white space and what does not show are not told apart."""
    shown = "".join(c for c in text if c.isspace() or c.isprintable())
    return "".join(shown.replace("\u2060", "").split())


def srt_events(done: Transcription) -> list[pysubs2.SSAEvent]:
    return list(pysubs2.SSAFile.from_string(done.to_srt(), format_="srt"))


def vtt_captions(done: Transcription) -> list[webvtt.Caption]:
    return list(webvtt.from_string(done.to_vtt()))


def times(done: Transcription) -> list[tuple[int, int]]:
    """Start and end of each subtitle in milliseconds."""
    return [(_milliseconds(caption.start), _milliseconds(caption.end)) for caption in vtt_captions(done)]


def _milliseconds(clock: str) -> int:
    hours, minutes, seconds, thousandths = map(int, re.split("[:.]", clock))
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + thousandths


def test_segments_become_subtitles_with_their_times_and_speakers() -> None:
    done = transcription((0.0, 4.2, "Speaker 1", "Good morning."), (3600.5, 3661.25, "Speaker 2", "Hello."))

    assert done.to_srt() == (
        "1\n00:00:00,000 --> 00:00:04,200\nSpeaker 1: Good morning.\n\n"
        "2\n01:00:00,500 --> 01:01:01,250\nSpeaker 2: Hello.\n"
    )
    assert done.to_vtt() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:04.200\n<v Speaker 1>Good morning.</v>\n\n"
        "01:00:00.500 --> 01:01:01.250\n<v Speaker 2>Hello.</v>\n"
    )


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_looks_like_markup_or_times_stays_text(text: str) -> None:
    done = transcription((1.0, 2.0, None, "before"), (2.0, 9.0, text[:20], text), (9.0, 10.0, None, "after"))

    events = srt_events(done)
    captions = vtt_captions(done)

    name = plain(text[:20])
    said = [plain(event.text.replace("\\N", "")) for event in events]
    assert [said[0], said[-1]] == ["before", "after"]
    assert "".join(said[1:-1]) == f"{name}:{plain(text)}"
    assert plain(html.unescape("".join(caption.text for caption in captions[1:-1]))) == plain(text)
    assert plain(html.unescape(captions[1].voice or "")) == name


@pytest.mark.parametrize("ending", ["srt", "vtt"])
def test_ffmpeg_reads_all_of_it(ending: str, tmp_path: Path) -> None:
    done = transcription(*((float(at), at + 1.0, "A & B", text) for at, text in enumerate(HOSTILE)))
    path = tmp_path / f"transcript.{ending}"
    path.write_text(done.to_srt() if ending == "srt" else done.to_vtt(), encoding="utf-8")

    with av.open(str(path)) as opened:
        packets = [packet for packet in opened.demux() if packet.size]

    expected = times(done) if ending == "vtt" else [(event.start, event.end) for event in srt_events(done)]
    starts = [round((packet.pts or 0) * packet.time_base * 1000) for packet in packets]
    assert starts == [start for start, _ in expected]
    read = "".join(re.sub(r"</?v[^>]*>", "", bytes(packet).decode()) for packet in packets)
    assert plain(HOSTILE[-2]) in plain(read)


def test_a_long_segment_becomes_several_subtitles_that_share_its_time() -> None:
    text = " ".join(["All that is gold does not glitter, not all those who wander are lost."] * 6)
    done = transcription((10.0, 40.0, "Speaker 1", text))

    captions = vtt_captions(done)

    assert len(captions) == 6
    assert plain("".join(caption.text for caption in captions)) == plain(text)
    for event in (*captions, *srt_events(done)):
        lines = event.text.replace("\\N", "\n").splitlines()
        assert len(lines) <= 2
        assert all(len(line) <= 42 for line in lines)
    at = times(done)
    assert at[0][0] == 10_000
    assert at[-1][1] == 40_000
    assert [end for _, end in at[:-1]] == [start for start, _ in at[1:]]
    lengths = [len(caption.text.replace("\n", "")) for caption in captions]
    for (start, end), length in zip(at, lengths, strict=True):
        assert end - start == pytest.approx(30_000 * length / sum(lengths), abs=1)


def test_a_line_does_not_begin_with_the_mark_of_a_letter() -> None:
    done = transcription((0.0, 9.0, None, "x" + "e\u0301" * 90))

    lines = [line for caption in vtt_captions(done) for line in caption.text.splitlines()]

    assert max(map(len, lines)) <= 42
    assert not any(line.startswith("\u0301") for line in lines)


def test_segments_that_overlap_are_both_shown_in_the_order_of_their_starts() -> None:
    done = transcription((0.0, 10.0, "A", "long"), (4.0, 5.0, "B", "yes"), (3.0, 3.5, "C", "late"))

    assert times(done) == [(0, 10_000), (3_000, 3_500), (4_000, 5_000)]


@pytest.mark.parametrize(
    ("segments", "duration", "expected"),
    [
        # Only ends are missing: as long as saying it takes, a second at least, until the next one at most.
        ([(1.0, None, "x" * 30), (9.0, None, "yes")], 60.0, [(1000, 3000), (9000, 10_000)]),
        ([(1.0, None, "x" * 40), (2.5, 3.0, "y")], None, [(1000, 2500), (2500, 3000)]),
        ([(5.0, 5.0, "zero"), (7.0, 6.0, "back")], None, [(5000, 6000), (7000, 8000)]),
        # In between: by the lengths of the texts.
        ([(0.0, 2.0, "a"), (None, None, "bbb"), (None, None, "c"), (10.0, 11.0, "d")], None,
         [(0, 2000), (2000, 8000), (8000, 10_000), (10_000, 11_000)]),
        # None at all: over the recording, else as long as saying it takes.
        ([(None, None, "aaa"), (None, None, "b")], 8.0, [(0, 6000), (6000, 8000)]),
        ([(None, None, "x" * 30), (None, None, "y" * 30)], None, [(0, 2000), (2000, 4000)]),
    ],
)  # fmt: skip
def test_missing_times_are_filled_in_as_documented(
    segments: Sequence[tuple[float | None, float | None, str]],
    duration: float | None,
    expected: list[tuple[int, int]],
) -> None:
    done = transcription(*((start, end, None, text) for start, end, text in segments), duration=duration)

    assert times(done) == expected


def test_a_transcript_without_segments_is_shown_over_the_whole_recording() -> None:
    done = transcription(text="Only text.\nAnd more.", duration=12.0)

    assert times(done) == [(0, 12_000)]
    assert vtt_captions(done)[0].text == "Only text. And more."
    assert done.to_text() == "Only text. And more.\n"


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_silence_is_a_file_without_subtitles(text: str | None) -> None:
    done = transcription((0.0, 1.0, "Speaker 1", " \n"), text=text)

    assert (done.to_srt(), done.to_vtt(), done.to_text()) == ("", "WEBVTT\n", "")
    assert vtt_captions(done) == []


def test_text_has_a_paragraph_for_each_turn_of_a_speaker() -> None:
    done = transcription(
        (0.0, 1.0, "Ann", "One."),
        (1.0, 2.0, "Ann", "Two."),
        (2.0, 3.0, "Bob", "Three."),
        (3.0, 4.0, None, "Four."),
    )

    assert done.to_text() == "Ann: One. Two.\n\nBob: Three.\n\nFour.\n"


def test_markdown_escapes_what_was_said() -> None:
    done = transcription(
        (3661.0, 3662.0, "*Ann*", "1. <img src=x> [a](b) `c` _d_ # e"),
        (3663.0, 3664.0, None, "- list"),
        duration=4000,
    )

    assert done.to_markdown() == (
        "# txn\\_1\n\n- Length: 1:06:40\n\n"
        "**\\*Ann\\*** (1:01:01)\n\n1\\. \\<img src=x\\> \\[a\\](b) \\`c\\` \\_d\\_ \\# e\n\n"
        "(1:01:03)\n\n\\- list\n"
    )


@pytest.mark.parametrize("status", [Status.PROCESSING, Status.FAILED])
@pytest.mark.parametrize("method", ["to_srt", "to_vtt", "to_text", "to_markdown"])
def test_what_is_not_completed_cannot_be_exported(status: Status, method: str) -> None:
    with pytest.raises(PlaudInputError, match=f"{method}: transcription txn_1 is {status.value}"):
        getattr(Transcription("txn_1", status, status.value), method)()


seconds = st.none() | st.floats(0, 100_000)
any_segments = st.lists(
    st.tuples(seconds, seconds, st.none() | st.text(max_size=60), st.text(max_size=300)), max_size=8
)


@given(any_segments, st.none() | st.floats(0, 100_000))
def test_whatever_the_segments_times_are_monotone_and_no_text_is_lost(
    segments: list[tuple[float | None, float | None, str | None, str]], duration: float | None
) -> None:
    done = transcription(*segments, duration=duration)

    cues = [line for line in done.to_vtt().splitlines() if " --> " in line]
    at = [tuple(map(_milliseconds, line.split(" --> "))) for line in cues]
    assert [start for start, _ in at] == sorted(start for start, _ in at)
    assert all(end > start for start, end in at)
    said = "".join(
        re.sub(r"<[^>]*>", "", line) for line in done.to_vtt().splitlines()[1:] if " --> " not in line
    )
    assert sorted(plain(html.unescape(said))) == sorted(plain("".join(text for *_, text in segments)))
    assert io.StringIO(done.to_srt()).read().count(" --> ") >= len(
        [1 for *_, text in segments if plain(text)]
    )
