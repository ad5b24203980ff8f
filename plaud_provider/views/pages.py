"""The pages themselves: plain files, for whoever is logged in to Airflow."""

from __future__ import annotations

from importlib.resources import files

from airflow.api_fastapi.core_api.security import get_user
from fastapi import APIRouter, Depends, HTTPException, Response

#: What a page is made of, by name, with its type.
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_STATIC = files("plaud_provider.views") / "static"

router = APIRouter(dependencies=[Depends(get_user)])


@router.get("/transcripts")
def transcripts_page() -> Response:
    """Return the page of a run's transcripts; it asks for them itself."""
    return _file("transcripts.html")


@router.get("/ledger")
def ledger_page() -> Response:
    """Return the page of the ledger."""
    return _file("ledger.html")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Return a script or style sheet of the pages."""
    return _file(name)


def _file(name: str) -> Response:
    there = {found.name: found for found in _STATIC.iterdir()}
    content_type = _TYPES.get(name.rpartition(".")[2])
    if name not in there or content_type is None:
        raise HTTPException(404, "There is no such file.")
    return Response(there[name].read_bytes(), media_type=f"{content_type}; charset=utf-8")
