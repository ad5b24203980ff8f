"""The application that Airflow's API server mounts below ``/plaud``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from plaud_provider.views import webhooks

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
    app.include_router(webhooks.router)
    return app
