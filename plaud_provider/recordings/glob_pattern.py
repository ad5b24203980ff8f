"""Glob patterns over paths, as ``pathlib`` has them only from Python 3.13 on."""

from __future__ import annotations

import fnmatch
import re

_MAGIC = re.compile(r"[*?\[]")


class GlobPattern:
    """
    A pattern that a whole relative path has to match.

    ``*`` and ``?`` stand for characters of one name, ``[...]`` for one of some (``[!...]``: for any but
    those), and ``**`` as a whole name for any number of folders, also none. Upper and lower case differ.

    :param pattern: The pattern, with ``/`` between names.
    :raises ValueError: if it is none; its text says why.
    """

    def __init__(self, pattern: str) -> None:
        names = pattern.split("/")
        for name in names:
            if name in ("", ".", "..") or "\x00" in name:
                raise ValueError(
                    f"has {name!r} for a name; write it relative to the folder, as in '**/*.wav'"
                )
            if "**" in name and name != "**":
                raise ValueError(
                    "has '**' as a part of a name; it stands for whole folders, as in '**/*.wav'"
                )
        folders = names[:-1]
        literal = next((at for at, name in enumerate(folders) if _MAGIC.search(name)), len(folders))
        #: The folders at its beginning that have no wildcards, with a ``/`` at their end, if any.
        self.literal_folder = "".join(f"{name}/" for name in folders[:literal])
        self._names = [None if name == "**" else re.compile(fnmatch.translate(name)) for name in names]

    def matches(self, path: str) -> bool:
        """Whether a relative path matches it."""
        reached = self._past_folders({0})
        for name in path.split("/"):
            following = set()
            for at in reached:
                if at < len(self._names):
                    expected = self._names[at]
                    if expected is None:
                        following.add(at)
                    elif expected.match(name):
                        following.add(at + 1)
            reached = self._past_folders(following)
        return len(self._names) in reached

    def _past_folders(self, reached: set[int]) -> set[int]:
        """Add where one gets to by taking ``**`` for no (further) folder."""
        passed = set(reached)
        for start in reached:
            at = start
            while at < len(self._names) and self._names[at] is None:
                at += 1
                passed.add(at)
        return passed
