"""The application that Airflow's API server mounts below ``/plaud``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.api_fastapi.app import get_auth_manager
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import RedirectResponse

from plaud_provider.views import docs, ledger, pages, transcripts, webhooks

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Pages load their script, style and data from here, and only Airflow's own pages may frame them. Nothing but
#: these files runs in a page or styles it: a transcript that is HTML stays text.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "same-origin",
    # Transcripts are in no cache, of a proxy or of a browser that several people use.
    "cache-control": "no-store",
}


class SecurityHeaders:
    """
    Adds :data:`HEADERS` to every answer, where it does not have such a header of its own.

    :param app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in more if one[0] not in there)]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def create_app() -> FastAPI:
    """Return the application; it has no page that describes its routes, as Airflow's own has one."""
    app = FastAPI(title="Plaud", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityHeaders)
    for part in (pages, docs, transcripts, ledger, webhooks):
        app.include_router(part.router)
    app.add_exception_handler(HTTPException, _to_login)  # type: ignore[arg-type]
    return app


async def _to_login(request: Request, problem: HTTPException) -> Response:
    """Show Airflow's login to a person who is not logged in; everything else is answered as it is."""
    if problem.status_code == 401 and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)))
    return await http_exception_handler(request, problem)
