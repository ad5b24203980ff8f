from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.recordings.listing import GlobPattern


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.wav", ["a.wav", "a b#1?.wav"], ["a.mp3", "2024/a.wav", "a.WAV", "a.wav/b"]),
        ("**/*.wav", ["a.wav", "2024/a.wav", "2024/05/a.wav"], ["a.mp3", "a.wav/b.mp3"]),
        ("2024/**", ["2024/a.wav", "2024/05/a.wav"], ["2025/a.wav", "a/2024/a.wav", "2024"]),
        ("2024/**/a.wav", ["2024/a.wav", "2024/05/06/a.wav"], ["2024/b.wav", "a.wav"]),
        ("*/a.wav", ["2024/a.wav"], ["a.wav", "2024/05/a.wav"]),
        ("**/05/**/a?.wav", ["05/a1.wav", "2024/05/x/y/a1.wav"], ["05/a.wav", "06/a1.wav"]),
        ("[ab]-[0-9].wav", ["a-1.wav", "b-9.wav"], ["c-1.wav", "a-x.wav"]),
        ("[!ab].wav", ["c.wav"], ["a.wav", "/.wav"]),
        ("call[!0-9]*.wav", ["call-1.wav"], ["call1.wav", "call/1.wav"]),
        ("call[ -~]1.wav", ["call-1.wav"], ["call/1.wav"]),
        ("[!b-a]1.wav", ["a1.wav"], ["/1.wav"]),
        ("[]a]/[!]].wav", ["a/b.wav", "]/b.wav"], ["a/].wav", "a//.wav"]),
        ("back\\*/[\\]*.wav", ["back\\/\\.wav"], ["back/\\.wav"]),
        ("[[]1].wav", ["[1].wav"], ["1.wav"]),
        ("100%.wav", ["100%.wav"], ["1000.wav"]),
        ("(a|b)+.wav", ["(a|b)+.wav"], ["a.wav", "ab.wav"]),
        ("🎤*.wav", ["🎤 1.wav"], ["1.wav"]),
        ("line*.wav", ["line\nbreak.wav"], ["line/break.wav"]),
        ("**", ["a.wav", "2024/a.wav"], []),
        ("**/**/*.wav", ["a.wav", "2024/05/06/a.wav"], ["a.mp3"]),
        # Object storage knows folders whose name is empty.
        ("**/*.wav", ["/a.wav", "2024//a.wav", "//a.wav"], ["/a.mp3"]),
        ("2024/**/a.wav", ["2024//a.wav"], ["/2024/a.wav"]),
        ("*/a.wav", ["b/a.wav"], ["/a.wav"]),
    ],
)
def test_a_pattern_matches_whole_paths(pattern: str, matching: list[str], others: list[str]) -> None:
    glob = GlobPattern(pattern)

    assert [path for path in matching + others if glob.matches(path)] == matching


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("2024/05/*.wav", "2024/05/"),
        ("2024/0?/a.wav", "2024/"),
        ("2024/a.wav", "2024/"),
        ("**/a.wav", ""),
        ("*.wav", ""),
        ("a.wav", ""),
        ("a[1]/b/c.wav", ""),
    ],
)
def test_the_folders_before_the_first_wildcard_are_known(pattern: str, folder: str) -> None:
    assert GlobPattern(pattern).literal_folder == folder


@pytest.mark.parametrize("pattern", ["", "/a.wav", "a//b.wav", "a/", "../a.wav", "./a.wav", "a/**.wav", "\0"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape("'**/*.wav'")):
        GlobPattern(pattern)


@given(st.text("a*?[]!-\\/.^&~|\n", max_size=12), st.text("a[]!-\\/.^&~|\n", max_size=6))
@pytest.mark.filterwarnings("error")
def test_any_text_is_a_pattern_or_refused(pattern: str, path: str) -> None:
    try:
        glob = GlobPattern(pattern)
    except ValueError:
        return
    assert glob.matches(path) in (True, False)
    if "**" not in pattern:
        assert not glob.matches(path) or path.count("/") == pattern.count("/")


names = st.text("ab", min_size=1, max_size=2)


@given(st.lists(names, min_size=1, max_size=5), st.data())
def test_folders_left_out_of_a_path_are_found_by_two_stars(path: list[str], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(path) - 1))
    end = data.draw(st.integers(begin, len(path) - 1))

    assert GlobPattern("/".join([*path[:begin], "**", *path[end:]])).matches("/".join(path))
