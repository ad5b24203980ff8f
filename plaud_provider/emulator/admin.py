"""The admin API below ``/_emulator``: what a test orders, and what it reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from plaud_provider.emulator.faults import Fault
from plaud_provider.emulator.state import EmulatorState
from plaud_provider.emulator.store import MAX_EXPIRES, StoreError

Kind = Literal[
    "exchange", "refresh", "submit", "get", "user_token", "upload_urls", "upload_complete", "other"
]


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClockOrder(_Order):
    """
    Change the clock.

    :param advance: Emulated seconds to put it forward.
    :param settle: Whether to let the downloads that are under way end before.
    """

    speed: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    advance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    settle: bool = True


class SignOrder(_Order):
    """Ask for the URL of a file in the store."""

    path: str
    expires: int = Field(default=3600, ge=1, le=MAX_EXPIRES)


class ExpireOrder(_Order):
    """End the life of all access tokens, and on request of the refresh tokens too."""

    refresh_tokens: bool = False


class ForceOrder(_Order):
    """Set what is answered for a transcription: a status with its fields, or a whole payload."""

    status: Literal["processing", "completed", "failed"] | None = None
    text: str | None = None
    segments: list[JsonValue] | None = None
    language: str | None = None
    duration: float | None = None
    error: JsonValue = None
    payload: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> ForceOrder:
        if (self.status is None) == (self.payload is None):
            raise ValueError("give either status (with its fields) or payload")
        return self


def build_admin(state: EmulatorState) -> FastAPI:
    """Return the admin API of an emulator."""
    app = FastAPI(
        title="Plaud emulator: admin API",
        description="Unauthenticated: whoever reaches the emulator may use it. Keep it on 127.0.0.1.",
        docs_url="/_emulator/docs",
        redoc_url=None,
        openapi_url="/_emulator/openapi.json",
        redirect_slashes=False,
    )
    _add_reading(app, state)
    _add_ordering(app, state)
    _add_faults(app, state)
    return app


def _add_reading(app: FastAPI, state: EmulatorState) -> None:
    @app.get("/_emulator/ledger")
    def ledger(
        kind: Kind | None = None,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int | None, Query(ge=1)] = None,
    ) -> list[dict[str, Any]]:
        """List every contract request in order; ``after`` is a sequence number. Secrets are fingerprints."""
        return state.ledger_view(kind=kind, after=after, limit=limit)

    @app.get("/_emulator/summary")
    def summary() -> dict[str, Any]:
        """Return counts: granted, refused, dropped, submitted again, and each client's busiest minute."""
        return state.summary()

    @app.get("/_emulator/state")
    def overview() -> dict[str, Any]:
        """Return settings, clock, tokens issued, and every transcription without its text."""
        return state.overview()

    @app.get("/_emulator/objects")
    def objects() -> list[dict[str, Any]]:
        """List the files of the store."""
        return state.store.objects()


def _add_ordering(app: FastAPI, state: EmulatorState) -> None:
    @app.post("/_emulator/sign")
    def sign(order: SignOrder, request: Request) -> dict[str, str]:
        """Sign a URL for a file of the store; its host is the one this request was made to."""
        try:
            return {"url": str(request.base_url).rstrip("/") + state.sign(order.path, order.expires)}
        except StoreError as error:
            raise HTTPException(404, str(error)) from None

    @app.post("/_emulator/clock")
    def clock(order: ClockOrder) -> dict[str, Any]:
        """Set the clock's speed, put it forward, or both: the speed counts from now on."""
        if order.speed is not None:
            with state.lock:
                state.clock.set_speed(order.speed)
        if order.advance is not None:
            state.advance(order.advance, settle=order.settle)
        now = state.clock.now()
        return {
            "time": state.clock.utc(now).isoformat(),
            "seconds": round(now, 6),
            "speed": state.clock.speed,
        }

    @app.post("/_emulator/settle")
    def settle(timeout: Annotated[float, Query(ge=0, le=60)] = 10.0) -> dict[str, bool]:
        """Wait until no download is under way."""
        return {"settled": state.settle(timeout)}

    @app.post("/_emulator/reset")
    def reset() -> dict[str, bool]:
        """Forget everything but the settings."""
        state.reset()
        return {"reset": True}

    @app.post("/_emulator/tokens/expire")
    def expire(order: ExpireOrder | None = None) -> dict[str, int]:
        """Let all tokens of now expire."""
        with state.lock:
            both = order is not None and order.refresh_tokens
            return {"expired": state.tokens.expire_all(state.clock.now(), refresh_tokens=both)}

    @app.post("/_emulator/transcriptions/{transcription_id}")
    def force(transcription_id: str, order: ForceOrder) -> dict[str, Any]:
        """Set what is answered for a transcription from now on."""
        with state.lock:
            job = state.jobs.find(transcription_id)
            if job is None:
                raise HTTPException(404, "There is no such transcription.")
            state.jobs.force(job, order.model_dump(exclude_unset=True))
            return state.jobs.view(job)


def _add_faults(app: FastAPI, state: EmulatorState) -> None:
    @app.post("/_emulator/faults")
    def order_faults(faults: list[Fault]) -> list[dict[str, Any]]:
        """Order faults; a request meets the first that matches it."""
        with state.lock:
            return [state.faults.add(fault).view() for fault in faults]

    @app.get("/_emulator/faults")
    def list_faults() -> list[dict[str, Any]]:
        """List what was ordered, and how many requests met it (``consumed``)."""
        with state.lock:
            return [ordered.view() for ordered in state.faults.all()]

    @app.delete("/_emulator/faults")
    def clear_faults() -> dict[str, int]:
        """Take all faults back."""
        with state.lock:
            cleared = len(state.faults)
            state.faults.clear()
        return {"cleared": cleared}

    @app.delete("/_emulator/faults/{fault_id}")
    def remove_fault(fault_id: int) -> dict[str, int]:
        """Take one fault back."""
        with state.lock:
            if not state.faults.remove(fault_id):
                raise HTTPException(404, "There is no such fault.")
        return {"cleared": 1}
