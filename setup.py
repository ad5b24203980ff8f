"""
Make the long description, which pyproject.toml leaves open, of the README.

It is read where there is no repository around it: on a package index, in `pip show`. So it has neither the
README's pictures nor links to files, but says how to read the pages, which are in the package.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

PICTURE = r"^!\[[^\]]*\]\((?!https://)[^)]*\)\n\n?"
PAGE = r"\[([^\]]*)\]\(docs/(\w+)\.md[^)]*\)"
FILE = r"\[([^\]]*)\]\((?!https://|#)[^)]*\)"


def description(readme: str) -> str:
    """Return the README as it can be read anywhere."""
    text = re.sub(PICTURE, "", readme, flags=re.MULTILINE)
    text = re.sub(PAGE, r"\1 (`plaud docs \2`)", text)
    return re.sub(FILE, r"\1", text)


setup(
    long_description=description(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
