"""
A Plaud server that can be told to have trouble: written from Plaud's documentation alone.

It shares no code with ``plaud_provider``, its emulator included: what both of them took for granted would not
be noticed. The standard library only; ``python trouble_server.py --port-file FILE --record FILE``.

Every request is written to the record before anything is done about it, and again when it was answered, as
lines of JSON. Trouble is told by ``POST /_trouble``, a list of objects:

===========  ==============================================================================================
``name``     what it is called in the record
``start``    epoch seconds
``end``      likewise; a hanging answer hangs on
``lasts``    seconds from the first request that meets with it, if less
``calls``    ``submit``, ``get`` and ``token``, by default all
``client``   whose; by default everybody's
``nth``      numbers of accepted submits, from 0: only the requests for these
``share``    of the requests; by default all
``revoke``   whether every token is void from ``start`` on
``effect``   whether a request is handled all the same (a submit is paid for); ``half``: one in two, by chance
``status``   the answer's, with ``headers`` and ``body``: a string, sent as ``type``
``drop``     the connection is closed instead
``late``     the true answer comes so many seconds later
``hang``     no answer comes
``words``    the true answer in other words: ``capitals`` or ``embedded``
===========  ==============================================================================================

``POST /_settings`` sets ``processing_seconds``, ``request_limit`` and ``never`` (a part of the names of
recordings that are never finished).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import secrets
import threading
import time
from collections import deque
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"
TOKENS = "/oauth/partner/access-token"
TOKEN_LIMIT = 10
MINUTE = 60.0
#: A hanging answer ends at last, with its connection.
HANGS_SECONDS = 900.0
MAX_BODY = 1_000_000


class Job:
    """A recording that was accepted."""

    def __init__(self, number: int, audio: str) -> None:
        self.id = f"txn_{number:05}{secrets.token_hex(4)}"
        self.number = number
        self.audio = audio
        self.accepted_at = time.time()


class Plaud:
    """What the server knows; one lock for all of it."""

    def __init__(self, record: Path, request_limit: int) -> None:
        self.lock = threading.Lock()
        self.settings: dict[str, Any] = {
            "processing_seconds": 20.0,
            "request_limit": request_limit,
            "never": "",
        }
        self.troubles: list[dict[str, Any]] = []
        self.jobs: dict[str, Job] = {}
        self._record = record.open("a", buffering=1)
        self._requests = 0
        self._arrivals: dict[tuple[str, bool], deque[float]] = {}
        self._tokens: dict[str, float] = {}
        self._refresh_tokens: dict[str, str] = {}
        self._met_at: dict[str, float] = {}

    def arrived(self, call: str, client: str, **about: Any) -> tuple[int, bool]:
        """Record a request; return its number and whether it is within its limit."""
        with self.lock:
            now = time.time()
            self._requests += 1
            number = self._requests
            self._write({"n": number, "at": now, "call": call, "client": client, **about})
            is_token = call == "token"
            arrivals = self._arrivals.setdefault((client, is_token), deque())
            while arrivals and arrivals[0] <= now - MINUTE:
                arrivals.popleft()
            arrivals.append(now)
            limit = TOKEN_LIMIT if is_token else self.settings["request_limit"]
            return number, len(arrivals) <= limit

    def answered(self, number: int, **about: Any) -> None:
        with self.lock:
            self._write({"n": number, "answered_at": time.time(), **about})

    def trouble(self, call: str, client: str, job: Job | None) -> dict[str, Any] | None:
        now = time.time()
        for one in self.troubles:
            if not one["start"] <= now < one["end"] or call not in one.get(
                "calls", ("submit", "get", "token")
            ):
                continue
            if one.get("client", client) != client:
                continue
            if "nth" in one and (job is None or job.number not in one["nth"]):
                continue
            if random.random() >= one.get("share", 1.0):
                continue
            met_at = self._met_at.setdefault(one["name"], now)
            if now < met_at + one.get("lasts", float("inf")):
                return one
        return None

    def issue_token(self, client: str) -> dict[str, Any]:
        with self.lock:
            token, refresh = f"{client}.{secrets.token_hex(12)}", secrets.token_hex(12)
            self._tokens[token] = time.time()
            self._refresh_tokens = {old: who for old, who in self._refresh_tokens.items() if who != client}
            self._refresh_tokens[refresh] = client
        return {
            "access_token": token,
            "refresh_token": refresh,
            "token_type": "bearer",
            "expires_in": 86400,
        }

    def is_refresh_token(self, refresh: str, client: str) -> bool:
        return self._refresh_tokens.get(refresh) == client

    def is_token(self, token: str) -> bool:
        issued = self._tokens.get(token)
        if issued is None:
            return False
        now = time.time()
        return not any(one.get("revoke") and issued < one["start"] <= now for one in self.troubles)

    def accept(self, audio: str) -> Job:
        with self.lock:
            job = Job(len(self.jobs), audio)
            self.jobs[job.id] = job
            return job

    def submitted(self, job: Job) -> dict[str, Any]:
        return {"transcriptionId": job.id, "status": "processing", "createdAt": iso(job.accepted_at)}

    def transcription(self, job: Job) -> dict[str, Any]:
        done_at = job.accepted_at + self.settings["processing_seconds"]
        never = self.settings["never"]
        if time.time() < done_at or (never and never in job.audio):
            return {"transcriptionId": job.id, "status": "processing", "createdAt": iso(job.accepted_at)}
        return {
            "transcriptionId": job.id,
            "status": "completed",
            "text": f"Said in {job.audio}.",
            "language": "en",
            "duration": 12,
            "segments": [{"start": 0.0, "end": 4.2, "text": f"Said in {job.audio}.", "speaker": "Speaker 1"}],
            "createdAt": iso(job.accepted_at),
            "completedAt": iso(done_at),
        }

    def _write(self, line: dict[str, Any]) -> None:
        self._record.write(json.dumps(line) + "\n")


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, tz=UTC).isoformat().replace("+00:00", "Z")


def in_capitals(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "status": answer["status"].upper()}


def in_embedded_words(answer: dict[str, Any]) -> dict[str, Any]:
    """Say it as Plaud's later pages do."""
    told: dict[str, Any] = {"transcription_id": answer["transcriptionId"], "status": "PROGRESS", "data": {}}
    if answer["status"] == "completed":
        results = [{**segment, "speaker_id": segment["speaker"]} for segment in answer["segments"]]
        for segment in results:
            del segment["speaker"]
        told["status"] = "SUCCESS"
        told["data"] = {name: answer[name] for name in ("text", "language", "duration")}
        told["data"]["results"] = results
    return told


WORDS = {"capitals": in_capitals, "embedded": in_embedded_words}


class Handler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        plaud = self.server.plaud
        if not path.startswith(TRANSCRIPTIONS):
            self._send(404, {"error": "NOT_FOUND"})
            return
        job = plaud.jobs.get(unquote(path.removeprefix(TRANSCRIPTIONS)))
        self._call("get", self._bearer(), job, transcription_id=path.removeprefix(TRANSCRIPTIONS))

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MAX_BODY))
        plaud = self.server.plaud
        if path == "/_trouble":
            plaud.troubles = json.loads(body)
            self._send(200, {})
        elif path == "/_settings":
            plaud.settings.update(json.loads(body))
            self._send(200, {})
        elif path in (TOKENS, f"{TOKENS}/refresh"):
            client = self._basic()
            refresh = parse_qs(body.decode()).get("refresh_token", [""])[0] if path != TOKENS else None
            self._call("token", client, None, refresh=refresh)
        elif path == TRANSCRIPTIONS:
            told = json.loads(body)
            audio = unquote(urlsplit(str(told.get("audioUrl") or "")).path).rpartition("/")[2]
            self._call("submit", self._bearer(), None, audio=audio)
        else:
            self._send(404, {"error": "NOT_FOUND"})

    def _call(self, call: str, client: str, job: Job | None, **about: Any) -> None:
        plaud = self.server.plaud
        refresh = about.pop("refresh", None)
        number, is_within_limit = plaud.arrived(call, client, **about)
        trouble = plaud.trouble(call, client, job)
        name = trouble and trouble["name"]
        if not is_within_limit:
            plaud.answered(number, status=429, over=True)
            self._send(429, {"error": "RATE_LIMIT_EXCEEDED"})
            return
        has_effect = trouble is None or _has_effect(trouble)
        status, answer, accepted = 0, {}, None
        if has_effect:
            status, answer, accepted = self._handled(call, client, job, refresh=refresh, **about)
        if accepted is not None:
            # Before anything can go wrong: it is paid for.
            plaud.answered(number, accepted=accepted.id, audio=accepted.audio, trouble=name)
        if trouble is None:
            plaud.answered(number, status=status)
            self._send(status, answer)
            return
        if "late" in trouble:
            time.sleep(trouble["late"])
        if "words" in trouble and status == 200 and call != "token":
            answer = WORDS[trouble["words"]](answer)
        if trouble.get("hang"):
            plaud.answered(number, trouble=name, status=None)
            time.sleep(HANGS_SECONDS)
            self.close_connection = True
        elif trouble.get("drop"):
            plaud.answered(number, trouble=name, status=None)
            self.close_connection = True
        elif "status" in trouble:
            plaud.answered(number, trouble=name, status=trouble["status"])
            self._send_text(
                trouble["status"],
                trouble.get("body", "{}").encode(),
                trouble.get("type", "application/json"),
                trouble.get("headers", {}),
            )
        else:
            plaud.answered(number, trouble=name, status=status)
            self._send(status, answer)

    def _handled(
        self, call: str, client: str, job: Job | None, *, refresh: str | None, audio: str = "", **_: Any
    ) -> tuple[int, dict[str, Any], Job | None]:
        plaud = self.server.plaud
        if call == "token":
            if not client or (refresh is not None and not plaud.is_refresh_token(refresh, client)):
                return 401, {"error": "INVALID_CLIENT"}, None
            return 200, plaud.issue_token(client), None
        if not plaud.is_token(self.headers.get("Authorization", "").removeprefix("Bearer ")):
            return 401, {"error": "INVALID_TOKEN"}, None
        if call == "get":
            if job is None:
                return 404, {"error": "NOT_FOUND"}, None
            return 200, plaud.transcription(job), None
        if not audio:
            return 422, {"error": "AUDIO_URL_REQUIRED"}, None
        job = plaud.accept(audio)
        return 200, plaud.submitted(job), job

    def _bearer(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ").partition(".")[0]

    def _basic(self) -> str:
        encoded = self.headers.get("Authorization", "").removeprefix("Basic ")
        try:
            return base64.b64decode(encoded).decode().partition(":")[0]
        except ValueError:
            return ""

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        self._send_text(status, json.dumps(answer).encode(), "application/json", {})

    def _send_text(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: there is the record."""


def _has_effect(trouble: dict[str, Any]) -> bool:
    """Whether the request is handled as ever, whatever is answered then."""
    if "late" in trouble or "words" in trouble:
        return True
    effect = trouble.get("effect", False)
    return random.random() < 0.5 if effect == "half" else bool(effect)


class Server(ThreadingHTTPServer):
    """Listens."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, plaud: Plaud) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.plaud = plaud


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--request-limit", type=int, default=60)
    arguments = parser.parse_args()
    with Server(arguments.port, Plaud(arguments.record, arguments.request_limit)) as server:
        written = arguments.port_file.with_suffix(".part")
        written.write_text(str(server.server_address[1]))
        os.replace(written, arguments.port_file)
        server.serve_forever()


if __name__ == "__main__":
    main()
