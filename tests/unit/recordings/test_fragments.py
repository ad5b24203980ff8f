"""MP4 in fragments, in a storage: their length by a few ranges, whatever else is in them."""

from __future__ import annotations

import functools
import random
import struct
from typing import Any

import pytest

from plaud_provider.recordings.audio import Measured, measure
from plaud_provider.storage.ranges import LIMIT_BYTES
from tests.unit.recordings.media import encoded
from tests.unit.recordings.sounds import atom
from tests.unit.recordings.test_audio import REQUESTED, REQUESTS, Reads, both, measured, ranged

SECONDS = 60
#: How programs write fragments; most list them somewhere, with SILENT_END those of the sound end early.
BY_A_LIST = {
    "each a few seconds": "frag_keyframe+empty_moov+default_base_moof",
    "the first in the index": "frag_keyframe",
    "with their offsets from the beginning": "frag_keyframe+empty_moov",
    "sound and picture apart": "frag_keyframe+empty_moov+separate_moof",
    "the index written late": "frag_keyframe+delay_moov",
    "DASH": "dash+frag_keyframe+empty_moov",
    "CMAF": "cmaf+frag_keyframe",
    "listed at the beginning": "frag_keyframe+empty_moov+default_base_moof+global_sidx",
    "listed at the beginning only": "dash+frag_keyframe+empty_moov+global_sidx+skip_trailer",
}
UNLISTED = "frag_keyframe+empty_moov+default_base_moof+skip_trailer"


@functools.cache
def film(movflags: str, seconds: float = SECONDS, *, is_silent: bool = False, **more: Any) -> bytes:
    """Return a film whose picture has nearly all of its bytes, and those in its second half."""
    more.setdefault("moves_from", SECONDS / 2)
    return encoded(
        "mp4", "aac", seconds, video=True, is_silent=is_silent, options={"movflags": movflags}, **more
    )


def without_list(content: bytes) -> bytes:
    """Return a file without the list at its end."""
    return content[: -struct.unpack(">I", content[-4:])[0]] if content[-12:-8] == b"mfro" else content


@pytest.mark.parametrize("movflags", BY_A_LIST.values(), ids=BY_A_LIST)
@pytest.mark.parametrize("is_silent", [False, True], ids=["a tone", "silence"])
def test_a_film_is_as_long_as_its_last_fragment_says(movflags: str, is_silent: bool) -> None:
    content = film(movflags, is_silent=is_silent)
    reads = Reads(content)

    found = measure(reads.file, is_ranged=True)

    assert (found.kind, found.format) == ("measured", "mp4")
    assert found.seconds == pytest.approx(measured(content).seconds, abs=0.1)
    assert (len(reads.spans) <= REQUESTS, reads.fetched < REQUESTED) == (True, True)


@pytest.mark.parametrize("movflags", BY_A_LIST.values(), ids=BY_A_LIST)
def test_without_a_list_the_last_fragment_is_looked_for(movflags: str) -> None:
    content = without_list(film(movflags))
    reads = Reads(content)

    found = measure(reads.file, is_ranged=True)

    assert (found.kind, found.seconds) == ("measured", pytest.approx(SECONDS, abs=0.2))
    assert (len(reads.spans) <= 7, reads.fetched < len(content) / 2) == (True, True)


@pytest.mark.parametrize("begin", [0, 40], ids=["from the beginning", "late"])
@pytest.mark.parametrize("lasting", [20, 60], ids=["to the end", "ends early"])
@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "unlisted"])
def test_sound_for_a_part_of_the_picture_is_as_long_as_itself(
    begin: int, lasting: int, is_listed: bool
) -> None:
    content = film(BY_A_LIST["each a few seconds"], 20, begin=begin, video_seconds=begin + lasting)
    content = content if is_listed else without_list(content)

    on_disk, in_storage = both(content)

    assert (on_disk.kind, on_disk.seconds) == ("measured", pytest.approx(20, abs=0.2))
    assert (in_storage.kind, in_storage.seconds) == ("measured", pytest.approx(20, abs=0.2))


def test_a_list_of_the_pictures_alone_leads_to_the_sound_too() -> None:
    content = bytearray(film(BY_A_LIST["each a few seconds"]))
    # The second list, as if it were of no track.
    at = content.rindex(b"tfra")
    content[at - 4 : at + 4] = content[at - 4 : at] + b"free"

    assert ranged(bytes(content)).seconds == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_what_is_there_of_a_stream_that_broke_off_is_measured(share: float) -> None:
    content = film(UNLISTED)
    content = content[: int(len(content) * share)]

    on_disk, in_storage = both(content)

    assert (on_disk.kind, in_storage.kind) == ("measured", "estimated")
    assert in_storage.seconds == pytest.approx(on_disk.seconds, rel=0.1)


def test_one_that_says_how_long_it_should_be_is_cut_off() -> None:
    content = film(BY_A_LIST["listed at the beginning"])

    for found in both(content[: len(content) // 2]):
        assert found.kind == "not measurable"
        assert "is cut off: its MP4 header speaks of 60" in str(found.problem)
        assert found.seconds == pytest.approx(30 + SECONDS / 4, rel=0.1)


def test_recordings_one_after_the_other_are_not_taken_for_the_last_of_them() -> None:
    content = encoded("mp4", "aac", 40, options={"movflags": UNLISTED, "frag_duration": "1000000"})

    assert ranged(content * 2) == Measured(pytest.approx(80, abs=0.2), "measured", "m4a")
    # What is too large to be read as a whole.
    found = ranged(content * 14)
    assert "fragments, whose first and last sound cannot be found" in str(found.problem)


def test_fragments_that_do_not_say_when_they_begin_are_never_taken_for_the_last_of_them() -> None:
    content = film(UNLISTED).replace(b"tfdt", b"free")

    found = ranged(content)

    assert found.kind == "not measurable" or found.seconds == pytest.approx(SECONDS, rel=0.1)
    assert measured(content).seconds == pytest.approx(SECONDS, rel=0.1)


def test_an_index_that_allows_fragments_need_not_have_any() -> None:
    content = encoded("mp4", "aac", 60, options={"movflags": "faststart"})
    at, more = content.index(b"moov") - 4, atom(b"mvex", atom(b"trex", struct.pack(">6I", 0, 1, 1, 0, 0, 0)))
    (length,) = struct.unpack(">I", content[at : at + 4])
    content = (
        content[:at]
        + struct.pack(">I", length + len(more))
        + content[at + 4 : at + length]
        + more
        + content[at + length :]
    )

    assert ranged(content).seconds == pytest.approx(60, abs=0.1)


def test_a_damaged_film_has_an_answer_after_some_megabytes() -> None:
    drawn = random.Random(7)
    content = film(BY_A_LIST["listed at the beginning"])
    places = [
        found
        for name in (b"moof", b"traf", b"trun", b"tfra", b"mfro", b"sidx", b"trex", b"tfdt")
        for found in (content.find(name), content.rfind(name))
    ]
    for _ in range(30):
        changed = bytearray(content)
        for place in drawn.sample(places, 3):
            at = place + drawn.randrange(-4, 24)
            changed[at : at + 4] = drawn.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", drawn.randbytes(4)])
        reads = Reads(bytes(changed))
        found = measure(reads.file, is_ranged=True)
        assert found.kind == "not measurable" or (found.seconds or 0) < 10**9
        assert reads.fetched <= LIMIT_BYTES
