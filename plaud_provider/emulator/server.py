"""The emulator as a server: in a thread, on a port of its own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from threading import Event, Thread
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from plaud_provider.emulator.admin import ForceOrder, build_admin
from plaud_provider.emulator.faultbook import Ordered
from plaud_provider.emulator.faults import FAULT
from plaud_provider.emulator.gate import TRANSPORT, Gate
from plaud_provider.emulator.settings import Settings
from plaud_provider.emulator.state import EmulatorState

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0


def create_app(state: EmulatorState) -> ASGIApp:
    """
    Return the emulator as an ASGI application.

    Under another server than :class:`EmulatorServer` all works but the faults that close a connection.
    """
    return Gate(state, build_admin(state))


class EmulatorServer:
    """
    A Plaud server on a port of its own, for tests and for development.

    .. code-block:: python

        with EmulatorServer(Settings(processing_seconds=10)) as emulator:
            run_my_dag(connection=emulator.airflow_connection)
            assert emulator.summary()["submits_accepted"] == 1

    :param settings: What it is set to.
    :param host: Address to listen on. The admin API is unauthenticated: whoever reaches it may use it.
    :param port: Port to listen on; 0 for a free one.
    :raises OSError: from :meth:`start`, if it cannot listen there.
    """

    def __init__(self, settings: Settings | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.settings = settings or Settings()
        self.host = host
        self.port = port
        self.state = EmulatorState(self.settings)
        self._server: _Server | None = None
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start, and return once requests are answered."""
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(self.state),
            # One protocol, whatever else is installed: the faults depend on how it closes connections.
            http=_FaultyProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # The gate logs its own errors; a response cut on purpose is none.
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._thread = Thread(
            target=self._server.run, args=([listener],), name=f"plaud-emulator-{self.port}", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(_START_SECONDS):
            raise RuntimeError(f"The emulator did not start within {_START_SECONDS:g} s.")
        return self

    def stop(self) -> None:
        """Stop, and return once the port is closed. Answers that are under way get a second to end."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_STOP_SECONDS)
        self._server = self._thread = None
        self.state.close()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def airflow_connection(self) -> str:
        """The Airflow connection to it, as JSON, for its first client. It contains the client's secrets."""
        client_id, secret_key = next(iter(self.settings.clients.items()))
        extra = {"region": self.settings.region}
        if self.settings.api != "openapi":
            extra |= {"api": self.settings.api, "api_key": self.settings.api_keys.get(client_id, "")}
        return json.dumps(
            {
                "conn_type": "plaud",
                "login": client_id,
                "password": secret_key,
                "host": self.url,
                "extra": extra,
            }
        )

    def advance(self, seconds: float, *, settle: bool = True) -> None:
        """Put the clock forward; see :meth:`plaud_provider.emulator.state.EmulatorState.advance`."""
        self.state.advance(seconds, settle=settle)

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait until no download is under way; return whether that was so in time (real seconds)."""
        return self.state.settle(timeout)

    def reset(self) -> None:
        """Forget everything but the settings."""
        self.state.reset()

    def inject(self, instruction: Mapping[str, Any]) -> Ordered:
        """
        Order a fault.

        :param instruction: As posted to ``/_emulator/faults``, for example
            ``{"match": {"kind": "submit"}, "action": "drop_after"}``.
        :return: The order; its ``consumed`` says how many requests have met it.
        :raises ValueError: if there is no such fault.
        """
        fault = FAULT.validate_python(dict(instruction))
        with self.state.lock:
            return self.state.faults.add(fault)

    def force(self, transcription_id: str, **change: Any) -> None:
        """
        Set what is answered for a transcription from now on.

        :param change: As posted to ``/_emulator/transcriptions/{id}``: ``status="failed", error=...``,
            ``status="completed", text=..., segments=...``, or ``payload={...}``.
        :raises KeyError: if there is no such transcription.
        :raises ValueError: if the change is not one of these.
        """
        order = ForceOrder.model_validate(change).model_dump(exclude_unset=True)
        with self.state.lock:
            job = self.state.jobs.find(transcription_id)
            if job is None:
                raise KeyError(transcription_id)
            self.state.jobs.force(job, order)

    def expire_tokens(self, *, refresh_tokens: bool = False) -> int:
        """Let all access tokens expire, and on request the refresh tokens; return how many did."""
        with self.state.lock:
            return self.state.tokens.expire_all(self.state.clock.now(), refresh_tokens=refresh_tokens)

    def sign(self, path: str, expires: int = 3600) -> str:
        """
        Return a signed URL for a file of the store.

        :param path: Relative to the store's folder.
        :param expires: Real seconds for which it works.
        :raises StoreError: if there is no such file.
        """
        return self.url + self.state.sign(path, expires)

    def uploads(self) -> list[dict[str, Any]]:
        """Return every upload: its bytes, how often each part was sent, whether it is complete."""
        return self.state.uploads.view()

    def ledger(self, *, kind: str | None = None, after: int = 0) -> list[dict[str, Any]]:
        """Return every contract request in order, as ``/_emulator/ledger`` does."""
        return self.state.ledger_view(kind=kind, after=after)

    def summary(self) -> dict[str, Any]:
        """Return counts over the ledger, as ``/_emulator/summary`` does."""
        return self.state.summary()

    def transcriptions(self) -> list[dict[str, Any]]:
        """Return every transcription without its text, as ``/_emulator/state`` does."""
        with self.state.lock:
            return [self.state.jobs.view(job) for job in self.state.jobs]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it every answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class _FaultyProtocol(H11Protocol):
    """HTTP/1.1 that lets the application have the connection, to close it where HTTP would not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        application: Any = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            await application({**scope, "extensions": {TRANSPORT: transport}}, receive, send)

        self.app = with_transport
