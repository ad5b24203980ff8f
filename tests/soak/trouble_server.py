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
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
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

    def __init__(self, number: int, audio: str, accepted_at: float) -> None:
        self.id = f"txn_{number:05}{secrets.token_hex(4)}"
        self.number = number
        self.audio = audio
        self.accepted_at = accepted_at


class Call(NamedTuple):
    """
    A request.

    :param kind: ``submit``, ``get`` or ``token``.
    :param client: Whose.
    :param token: Its bearer token.
    :param audio: Name of the recording that is submitted.
    :param transcription_id: What is asked for.
    :param refresh: The refresh token of a refresh; ``None`` for an exchange.
    """

    kind: str
    client: str
    token: str = ""
    audio: str = ""
    transcription_id: str = ""
    refresh: str | None = None


class Reply(NamedTuple):
    """
    What a request gets.

    :param status: HTTP status; ``None``: no answer.
    :param after: Seconds until it comes; without an answer, until the connection is closed.
    """

    status: int | None
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = {}
    after: float = 0.0


class Plaud:
    """
    What the server knows, and what it answers.

    :param record: Given the lines of the record.
    :param request_limit: Requests a minute that it takes of each client.
    :param clock: Tells the time, in epoch seconds.
    """

    def __init__(
        self,
        record: Callable[[dict[str, Any]], object],
        request_limit: int,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {
            "processing_seconds": 20.0,
            "request_limit": request_limit,
            "never": "",
        }
        self.troubles: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._record = record
        self._clock = clock
        self._rng = rng or random.Random()
        self._jobs: dict[str, Job] = {}
        self._requests = 0
        self._arrivals: dict[tuple[str, bool], deque[float]] = {}
        self._tokens: dict[str, float] = {}
        self._refresh_tokens: dict[str, str] = {}
        self._met_at: dict[str, float] = {}

    def reply(self, call: Call) -> tuple[int, Reply]:
        """Take a request; return its number in the record, and what it gets."""
        with self._lock:
            number, is_within_limit = self._arrived(call)
            trouble = self._trouble(call)
            if not is_within_limit:
                self._record({"n": number, "over": True})
                return number, _json(429, {"error": "RATE_LIMIT_EXCEEDED"})
            if trouble is None:
                return number, self._handled(number, call)
            self._record({"n": number, "trouble": trouble["name"]})
            handled = self._handled(number, call) if self._has_effect(trouble) else _json(500, {})
            if trouble.get("hang"):
                return number, Reply(None, after=HANGS_SECONDS)
            if trouble.get("drop"):
                return number, Reply(None)
            if "status" in trouble:
                return number, Reply(
                    trouble["status"],
                    trouble.get("body", "{}").encode(),
                    trouble.get("type", "application/json"),
                    trouble.get("headers", {}),
                )
            if "words" in trouble and handled.status == 200 and call.kind != "token":
                handled = _json(200, WORDS[trouble["words"]](json.loads(handled.body)))
            return number, handled._replace(after=trouble.get("late", 0.0))

    def answered(self, number: int, status: int | None) -> None:
        """Note that a request has got its answer, or that it gets none."""
        with self._lock:
            self._record({"n": number, "answered_at": self._clock(), "status": status})

    def _arrived(self, call: Call) -> tuple[int, bool]:
        """Note a request; return its number, and whether it is within its limit."""
        now = self._clock()
        self._requests += 1
        about = {name: getattr(call, name) for name in ("audio", "transcription_id") if getattr(call, name)}
        self._record({"n": self._requests, "at": now, "call": call.kind, "client": call.client, **about})
        is_token = call.kind == "token"
        arrivals = self._arrivals.setdefault((call.client, is_token), deque())
        while arrivals and arrivals[0] <= now - MINUTE:
            arrivals.popleft()
        arrivals.append(now)
        limit = TOKEN_LIMIT if is_token else self.settings["request_limit"]
        return self._requests, len(arrivals) <= limit

    def _trouble(self, call: Call) -> dict[str, Any] | None:
        now = self._clock()
        job = self._jobs.get(call.transcription_id)
        for one in self.troubles:
            if not one["start"] <= now < one["end"] or call.kind not in one.get("calls", (call.kind,)):
                continue
            if one.get("client", call.client) != call.client:
                continue
            if "nth" in one and (job is None or job.number not in one["nth"]):
                continue
            if self._rng.random() >= one.get("share", 1.0):
                continue
            met_at = self._met_at.setdefault(one["name"], now)
            if now < met_at + one.get("lasts", float("inf")):
                return one
        return None

    def _has_effect(self, trouble: dict[str, Any]) -> bool:
        """Whether the request is handled as ever, whatever is answered then."""
        if "late" in trouble or "words" in trouble:
            return True
        effect = trouble.get("effect", False)
        return self._rng.random() < 0.5 if effect == "half" else bool(effect)

    def _handled(self, number: int, call: Call) -> Reply:
        if call.kind == "token":
            is_refresh_token = self._refresh_tokens.get(call.refresh or "") == call.client
            if not call.client or (call.refresh is not None and not is_refresh_token):
                return _json(401, {"error": "INVALID_CLIENT"})
            return _json(200, self._issue_token(call.client))
        if not self._is_token(call.token):
            return _json(401, {"error": "INVALID_TOKEN"})
        if call.kind == "get":
            job = self._jobs.get(call.transcription_id)
            return _json(404, {"error": "NOT_FOUND"}) if job is None else _json(200, self._told(job))
        if not call.audio:
            return _json(422, {"error": "AUDIO_URL_REQUIRED"})
        job = Job(len(self._jobs), call.audio, self._clock())
        self._jobs[job.id] = job
        # Before anything can go wrong: it is paid for.
        self._record({"n": number, "accepted": job.id})
        return _json(200, _processing(job))

    def _issue_token(self, client: str) -> dict[str, Any]:
        token, refresh = f"{client}.{secrets.token_hex(12)}", secrets.token_hex(12)
        self._tokens[token] = self._clock()
        self._refresh_tokens = {old: who for old, who in self._refresh_tokens.items() if who != client}
        self._refresh_tokens[refresh] = client
        return {
            "access_token": token,
            "refresh_token": refresh,
            "token_type": "bearer",
            "expires_in": 86400,
        }

    def _is_token(self, token: str) -> bool:
        issued = self._tokens.get(token)
        if issued is None:
            return False
        now = self._clock()
        return not any(one.get("revoke") and issued < one["start"] <= now for one in self.troubles)

    def _told(self, job: Job) -> dict[str, Any]:
        done_at = job.accepted_at + self.settings["processing_seconds"]
        never = self.settings["never"]
        if self._clock() < done_at or (never and never in job.audio):
            return _processing(job)
        return {
            **_processing(job),
            "status": "completed",
            "text": f"Said in {job.audio}.",
            "language": "en",
            "duration": 12,
            "segments": [{"start": 0.0, "end": 4.2, "text": f"Said in {job.audio}.", "speaker": "Speaker 1"}],
            "completedAt": iso(done_at),
        }


def _json(status: int, answer: dict[str, Any]) -> Reply:
    return Reply(status, json.dumps(answer).encode())


def _processing(job: Job) -> dict[str, Any]:
    return {"transcriptionId": job.id, "status": "processing", "createdAt": iso(job.accepted_at)}


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
        if not path.startswith(TRANSCRIPTIONS):
            self._send(_json(404, {"error": "NOT_FOUND"}))
            return
        self._answer("get", transcription_id=unquote(path.removeprefix(TRANSCRIPTIONS)))

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MAX_BODY))
        plaud = self.server.plaud
        if path == "/_trouble":
            plaud.troubles = json.loads(body)
            self._send(_json(200, {}))
        elif path == "/_settings":
            plaud.settings.update(json.loads(body))
            self._send(_json(200, {}))
        elif path == TOKENS:
            self._answer("token")
        elif path == f"{TOKENS}/refresh":
            self._answer("token", refresh=parse_qs(body.decode()).get("refresh_token", [""])[0])
        elif path == TRANSCRIPTIONS:
            self._answer("submit", audio=name_of(json.loads(body).get("audioUrl")))
        else:
            self._send(_json(404, {"error": "NOT_FOUND"}))

    def _answer(self, kind: str, **about: Any) -> None:
        client, token = who(self.headers.get("Authorization", ""))
        number, reply = self.server.plaud.reply(Call(kind, client, token, **about))
        if reply.status is None:
            self.server.plaud.answered(number, None)
        time.sleep(reply.after)
        if reply.status is None:
            self.close_connection = True
            return
        self.server.plaud.answered(number, reply.status)
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        try:
            self.send_response(reply.status or 500)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
            for header, value in reply.headers.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(reply.body)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: there is the record."""


def who(authorization: str) -> tuple[str, str]:
    """Return whose request it is, by its credentials or by its token, and that token."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme == "Bearer":
        return credentials.partition(".")[0], credentials
    try:
        return base64.b64decode(credentials).decode().partition(":")[0], ""
    except ValueError:
        return "", ""


def name_of(audio_url: object) -> str:
    """Return a recording's name."""
    return unquote(urlsplit(str(audio_url or "")).path).rpartition("/")[2]


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
    record = arguments.record.open("a", buffering=1)
    plaud = Plaud(lambda line: record.write(json.dumps(line) + "\n"), arguments.request_limit)
    with record, Server(arguments.port, plaud) as server:
        written = arguments.port_file.with_suffix(".part")
        written.write_text(str(server.server_address[1]))
        os.replace(written, arguments.port_file)
        server.serve_forever()


if __name__ == "__main__":
    main()
