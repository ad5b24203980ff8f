"""The API's contract: what each call requires and answers."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from plaud_provider.emulator import embedded
from plaud_provider.emulator.jobs import Job
from plaud_provider.emulator.limits import SlidingLimit
from plaud_provider.emulator.state import EmulatorState
from plaud_provider.emulator.uploads import COMPLETE_PATH, PART_URLS_PATH, USER_TOKEN_PATH
from plaud_provider.emulator.wire import Answer, Request, error_answer, json_answer

EXCHANGE_PATH = "/oauth/partner/access-token"
REFRESH_PATH = "/oauth/partner/access-token/refresh"
TRANSCRIPTIONS_PATH = "/open/partner/ai/transcriptions/"

_KINDS = {
    EXCHANGE_PATH: "exchange",
    REFRESH_PATH: "refresh",
    TRANSCRIPTIONS_PATH: "submit",
    USER_TOKEN_PATH: "user_token",
    PART_URLS_PATH: "upload_urls",
    COMPLETE_PATH: "upload_complete",
}
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_SUBMIT_FIELDS: dict[str, type[str] | type[bool]] = {
    "audioUrl": str,
    "language": str,
    "webhookUrl": str,
    "speakerDiarization": bool,
}


def kind_of(method: str, path: str) -> str:
    """Return which call this is; ``other`` if the contract has none such. The trailing slash counts."""
    allowed = _allowed_method(path)
    if allowed != method:
        return "other"
    return _KINDS.get(path, "get")


def _allowed_method(path: str) -> str | None:
    if path in _KINDS:
        return "POST"
    rest = path.removeprefix(TRANSCRIPTIONS_PATH)
    return "GET" if rest != path and "/" not in rest else None


def presented_token(request: Request) -> str | None:
    """Return the bearer token of a request."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def presented_client(request: Request) -> tuple[str, str] | None:
    """Return client id and secret key of a request."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret_key = (
            base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (client_id, secret_key) if colon else None


class Contract:
    """
    Answers the API's calls. It never waits; the caller holds the state's lock.

    :param state: What it answers from and changes.
    """

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def client_of(self, request: Request) -> str | None:
        """Return whose request it is as far as its credentials tell, be they valid or not."""
        token = presented_token(request)
        if token is not None:
            return self._state.tokens.owner(token) or self._state.uploads.owner(token)
        client = presented_client(request)
        client_id = client[0] if client is not None else request.headers.get(embedded.CLIENT_HEADER)
        return client_id if client_id in self._state.settings.clients else None

    def answer(self, request: Request) -> Answer:
        """Answer one request, and let it take effect."""
        match request.kind:
            case "exchange" | "refresh":
                return self._token_call(request)
            case "submit" | "get":
                return self._api_call(request)
            case "user_token" | "upload_urls" | "upload_complete":
                return self._upload_call(request)
        allowed = _allowed_method(request.path)
        if allowed is None:
            return error_answer(
                404, "not_found", "There is no such path. The trailing slash of a path counts."
            )
        message = f"Only {allowed} is allowed here."
        return error_answer(405, "method_not_allowed", message, headers={"allow": allowed})

    def _token_call(self, request: Request) -> Answer:
        state = self._state
        client = presented_client(request)
        if client is None or client[0] not in state.settings.clients:
            return _bad_client()
        client_id, secret_key = client
        # Before the secret is looked at: the quota is the client id's, and guessing costs it too.
        refusal = self._over_limit(state.token_limit, client_id)
        if refusal is not None:
            return refusal
        if not hmac.compare_digest(state.settings.clients[client_id].encode(), secret_key.encode()):
            return _bad_client()
        if request.media_type != "application/x-www-form-urlencoded":
            return _bad_type("application/x-www-form-urlencoded")
        now = state.clock.now()
        if request.kind == "exchange":
            pair = state.tokens.issue(client_id, now)
        else:
            given = parse_qs(request.body.decode("utf-8", "replace")).get("refresh_token", [])
            if len(given) != 1:
                return error_answer(400, "invalid_request", "The field refresh_token is required, once.")
            refreshed = state.tokens.refresh(given[0], client_id, now)
            if refreshed is None:
                return error_answer(
                    401, "invalid_refresh_token", "The refresh token is not valid or was used."
                )
            pair = refreshed
        payload = {
            "access_token": pair.access_token,
            "refresh_token": pair.refresh_token,
            "token_type": "bearer",
            "expires_in": int(state.settings.token_seconds),
        }
        return json_answer(200, payload, headers={"cache-control": "no-store"})

    def _api_call(self, request: Request) -> Answer:
        if embedded.is_spoken_by(request):
            return self._embedded_call(request)
        state = self._state
        token = presented_token(request)
        client_id = None if token is None else state.tokens.owner(token)
        if token is None or client_id is None or not state.tokens.is_valid(token, state.clock.now()):
            message = "The access token is missing, not valid, or has expired."
            return error_answer(401, "invalid_token", message, headers={"www-authenticate": "Bearer"})
        refusal = self._over_limit(state.request_limit, client_id)
        if refusal is not None:
            return refusal
        if request.kind == "get":
            return self._get(request, client_id)
        return self._submit(request, client_id)

    def _upload_call(self, request: Request) -> Answer:
        state = self._state
        token = presented_token(request) or ""
        if request.kind == "user_token":
            client_id, is_valid = state.tokens.owner(token), state.tokens.is_valid(token, state.clock.now())
        else:
            client_id, is_valid = state.uploads.owner(token), state.uploads.is_valid(token)
        if client_id is None or not is_valid:
            return json_answer(401, {"detail": "TOKEN_INVALID"})
        return self._over_limit(state.request_limit, client_id) or state.uploads.answer(request, client_id)

    def _submit(self, request: Request, client_id: str) -> Answer:
        if request.media_type != "application/json":
            return _bad_type("application/json")
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):
            return error_answer(400, "invalid_json", "The body is not valid JSON.")
        problem = _submit_problem(body)
        if problem is not None:
            return error_answer(400, "invalid_request", problem)
        job = self._state.jobs.add(
            client_id,
            audio_url=body["audioUrl"],
            language=body.get("language"),
            speaker_diarization=body.get("speakerDiarization", False),
            # Stored only: the emulator does not deliver webhooks.
            webhook_url=body.get("webhookUrl"),
        )
        self._state.listen(job)
        return json_answer(200, self._state.jobs.accepted(job), transcription_id=job.transcription_id)

    def _embedded_call(self, request: Request) -> Answer:
        state = self._state
        client_id = request.headers.get(embedded.CLIENT_HEADER, "")
        api_key = state.settings.api_keys.get(client_id, "")
        given = request.headers.get(embedded.KEY_HEADER, "")
        if not api_key or not hmac.compare_digest(api_key.encode(), given.encode()):
            return json_answer(401, {"detail": "CLIENT_NOT_FOUND"})
        refusal = self._over_limit(state.request_limit, client_id)
        if refusal is not None:
            return refusal
        if request.kind == "submit":
            return self._embedded_submit(request, client_id)
        job = state.jobs.find(unquote(request.path.removeprefix(TRANSCRIPTIONS_PATH)), client_id)
        if job is None or not job.is_embedded:
            return json_answer(404, {"detail": "TASK_NOT_FOUND"})
        payload = state.jobs.result(job)
        if not job.is_verbatim:
            payload = embedded.result(payload, embeddings=job.embeddings)
        return json_answer(200, payload, transcription_id=job.transcription_id)

    def _embedded_submit(self, request: Request, client_id: str) -> Answer:
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):
            body = None
        if request.media_type != "application/json":
            return json_answer(415, {"detail": "UNSUPPORTED_MEDIA_TYPE"})
        if (wrong := embedded.problem(body)) is not None or not _is_http_url(body["file_url"]):
            return json_answer(422, {"detail": wrong or "file_url must be an http or https URL."})
        job: Job = self._state.jobs.add(client_id, is_embedded=True, **embedded.order(body))
        self._state.listen(job)
        return json_answer(
            200, embedded.accepted(job.transcription_id), transcription_id=job.transcription_id
        )

    def _get(self, request: Request, client_id: str) -> Answer:
        transcription_id = unquote(request.path.removeprefix(TRANSCRIPTIONS_PATH))
        job = self._state.jobs.find(transcription_id, client_id)
        if job is None or job.is_embedded:
            return error_answer(404, "not_found", "There is no such transcription.")
        return json_answer(200, self._state.jobs.result(job), transcription_id=job.transcription_id)

    def _over_limit(self, limit: SlidingLimit, client_id: str) -> Answer | None:
        clock = self._state.clock
        wait = limit.admit(client_id, clock.now())
        if wait is None:
            return None
        message = f"More than {limit.limit} requests in a minute."
        return error_answer(
            429, "too_many_requests", message, headers={"retry-after": str(clock.real_seconds(wait))}
        )


def _bad_client() -> Answer:
    message = "Client id or secret key are missing or wrong."
    return error_answer(401, "invalid_client", message, headers={"www-authenticate": "Basic"})


def _bad_type(expected: str) -> Answer:
    return error_answer(415, "unsupported_media_type", f"The Content-Type must be {expected}.")


def _submit_problem(body: Any) -> str | None:
    """Return what is wrong with the body of a submit."""
    if not isinstance(body, dict):
        return "The body is not a JSON object."
    if "audioUrl" not in body:
        return "audioUrl is required."
    for name, value in body.items():
        expected = _SUBMIT_FIELDS.get(name)
        if expected is None:
            return f"There is no field {name[:40]!r}."
        if not isinstance(value, expected):
            return f"{name} must be a {'boolean' if expected is bool else 'string'}."
        if name.endswith("Url") and not _is_http_url(str(value)):
            return f"{name} must be an http or https URL."
    if not _LANGUAGE.fullmatch(body.get("language", "en")):
        return "language must be a BCP-47 code."
    return None


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        return False
