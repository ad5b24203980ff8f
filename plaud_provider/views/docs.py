"""The docs that come with the package, as pages: what a task's link leads to fits what is installed."""

from __future__ import annotations

import html
import re
from importlib.resources import files
from itertools import pairwise

from airflow.api_fastapi.core_api.security import get_user
from fastapi import APIRouter, Depends, HTTPException, Response
from markdown_it import MarkdownIt
from markdown_it.token import Token

router = APIRouter(dependencies=[Depends(get_user)])

_DOCS = files("plaud_provider") / "docs"
_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{title}</title>
  <script src="../static/theme.js"></script>
  <link rel="stylesheet" href="../static/pages.css">
</head>
<body><main class="docs">
{body}
</main></body>
</html>
"""


@router.get("/docs/{name}")
def docs_page(name: str) -> Response:
    """Return a page of the docs."""
    source = next((one for one in _DOCS.iterdir() if one.name == f"{name}.md"), None)
    if source is None:
        raise HTTPException(404, "There is no such page.")
    body = _rendered(source.read_text(encoding="utf-8"))
    return Response(_PAGE.format(title=html.escape(name), body=body), media_type="text/html; charset=utf-8")


def _rendered(text: str) -> str:
    # Without HTML of its own, so that the page is what its Markdown says; pictures are not in the package.
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = reader.parse(text)
    for heading, content in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", re.sub(r"[^\w-]", "", content.content.lower().replace(" ", "-")))
    for token in tokens:
        _lead_to_pages(token)
    return str(reader.renderer.render(tokens, reader.options, {}))


def _lead_to_pages(token: Token) -> None:
    for inner in token.children or ():
        href = str(inner.attrGet("href") or "")
        if inner.type == "link_open" and (page := re.fullmatch(r"(\w+)\.md(#[\w-]*)?", href)):
            inner.attrSet("href", f"{page[1]}{page[2] or ''}")
