"""Faults that a test can order: what to match, how often, and what goes wrong."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, field_validator
from typing_extensions import override

from plaud_provider.emulator.embedded import is_uploaded, respelled
from plaud_provider.emulator.wire import WHOLE, Answer, Delivery, Request, error_answer, json_answer

MAX_INFLATED_BYTES = 512 * 1024 * 1024
_HTML = "<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Sign in</h1></body></html>"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


Kind = Literal[
    "exchange",
    "refresh",
    "submit",
    "get",
    "user_token",
    "upload_urls",
    "upload_complete",
    "upload_storage",
    "store",
    "other",
]
#: What is no call of the API: a file of the store, or a part or file that is uploaded.
STORAGES = ("store", "upload_storage")


class Match(BaseModel):
    """
    Which requests a fault is for; what is left out matches all.

    Requests for files of the store, and for what is uploaded, are met only by faults that name them
    (``"kind": "store"``, ``"kind": "upload_storage"``).

    :param external_url: Only submits of a recording that is not in Plaud's own storage, or (``false``) all
        but those: the API ``embedded`` is said to answer them with 500.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind | None = None
    method: str | None = None
    path_contains: str | None = None
    body_contains: str | None = None
    external_url: bool | None = None

    def accepts(self, request: Request) -> bool:
        """Return whether it is for this request."""
        return (
            (self.kind == request.kind or (self.kind is None and request.kind not in STORAGES))
            and (self.method is None or self.method.upper() == request.method)
            and (self.path_contains or "") in request.path
            and (self.body_contains or "").encode() in request.body
            and self.external_url in (None, request.kind == "submit" and not is_uploaded(request))
        )


class _Fault(BaseModel):
    """
    What all faults have.

    :param times: How many requests it is for; ``null`` for all until it is removed.
    :param skip: How many matching requests pass before the first.
    """

    model_config = ConfigDict(extra="forbid")

    match: Match = Match()
    times: int | None = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)

    @property
    def runs_handler(self) -> bool:
        """Whether the request takes effect."""
        return True

    @property
    def delivery(self) -> Delivery:
        """How the answer is sent."""
        return WHOLE

    def change(self, answer: Answer) -> Answer:
        """Return the answer to send in place of the handler's, or of none if the handler does not run."""
        return answer


class Delay(_Fault):
    """Wait so many real seconds, then go on, also to further faults."""

    action: Literal["delay"]
    seconds: float = Field(ge=0, le=3600)


class ExpireTokens(_Fault):
    """Let all access tokens expire, then go on."""

    action: Literal["expire_tokens"]


class _Instead(_Fault):
    """An answer in place of the handler's. With ``run_handler`` the request takes effect all the same."""

    run_handler: bool = False

    @property
    @override
    def runs_handler(self) -> bool:
        return self.run_handler


class StatusFault(_Instead):
    """Answer with a status."""

    action: Literal["status"]
    status: int = Field(ge=200, le=599)
    headers: dict[str, str] = {}
    body: JsonValue = None

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if name.lower() in ("content-length", "transfer-encoding"):
                raise ValueError(f"{name} is the emulator's; to break the length use the action truncate")
            if not _HEADER_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
                raise ValueError(f"{name!r} is not a header that HTTP can carry")
        return headers

    @override
    def change(self, answer: Answer) -> Answer:
        if self.body is None:
            ordered = error_answer(self.status, "injected", "The emulator was told to answer so.")
        else:
            ordered = _with_body(json_answer(self.status, None), self.body)
        headers = {**ordered.headers, **{name.lower(): value for name, value in self.headers.items()}}
        return replace(ordered, headers=headers, transcription_id=answer.transcription_id)


class Html(_Instead):
    """Answer 200 with an HTML page, as a captive portal does."""

    action: Literal["html"]

    @override
    def change(self, answer: Answer) -> Answer:
        headers = {"content-type": "text/html; charset=utf-8"}
        return Answer(200, _HTML.encode(), headers, answer.transcription_id)


class Redirect(_Instead):
    """Answer with a redirect."""

    action: Literal["redirect"]
    status: Literal[301, 302, 303, 307, 308] = 307
    location: str = Field(min_length=1, pattern=r"^[\x21-\x7e]+$")

    @override
    def change(self, answer: Answer) -> Answer:
        return Answer(self.status, b"", {"location": self.location}, answer.transcription_id)


class RejectToken(_Fault):
    """Answer 401 as if the token were not valid; it stays valid."""

    action: Literal["reject_token"]

    @property
    @override
    def runs_handler(self) -> bool:
        return False

    @override
    def change(self, answer: Answer) -> Answer:
        return error_answer(401, "invalid_token", "The access token is not valid or has expired.")


class DropBefore(_Fault):
    """Close the connection without a byte; the request takes no effect."""

    action: Literal["drop_before"]
    reset: bool = False

    @property
    @override
    def runs_handler(self) -> bool:
        return False

    @property
    @override
    def delivery(self) -> Delivery:
        return Delivery(dropped=True, reset=self.reset)


class DropAfter(_Fault):
    """Close the connection without a byte; the request has taken effect."""

    action: Literal["drop_after"]
    reset: bool = False

    @property
    @override
    def delivery(self) -> Delivery:
        return Delivery(dropped=True, reset=self.reset)


class Truncate(_Fault):
    """Cut the answer after ``keep`` bytes of its body (by default half); Content-Length is that of all."""

    action: Literal["truncate"]
    keep: int | None = Field(default=None, ge=0)
    reset: bool = False

    @property
    @override
    def delivery(self) -> Delivery:
        return Delivery(cut=True, keep=self.keep, reset=self.reset)


class Drip(_Fault):
    """Send the body slowly."""

    action: Literal["drip"]
    bytes_per_second: float = Field(gt=0)

    @property
    @override
    def delivery(self) -> Delivery:
        return Delivery(bytes_per_second=self.bytes_per_second)


class Malformed(_Fault):
    """Break the JSON of the answer; its length stays right."""

    action: Literal["malformed"]

    @override
    def change(self, answer: Answer) -> Answer:
        return replace(answer, body=answer.body[:-1] + b"," if answer.body else b"{,")


class Body(_Fault):
    """Replace the body: a string as it is, anything else as JSON."""

    action: Literal["body"]
    body: JsonValue

    @override
    def change(self, answer: Answer) -> Answer:
        return _with_body(answer, self.body)


class Patch(_Fault):
    """Set keys of the answer's JSON object, and remove others."""

    action: Literal["patch"]
    patch: dict[str, JsonValue] = {}
    remove: list[str] = []

    @override
    def change(self, answer: Answer) -> Answer:
        payload = _json_object(answer)
        if payload is None:
            return answer
        patched = {key: value for key, value in {**payload, **self.patch}.items() if key not in self.remove}
        return _with_body(answer, patched)


class Respell(_Fault):
    """
    Tell the same in other words, as has been seen or is likely.

    ``capitals``: the status word; ``speaker_id``, ``speaker``: the label's key; ``no_times``: no start, end,
    createdAt or completedAt; ``task_id``: id and status as ``task_id`` and ``task_status`` below ``data``.
    """

    action: Literal["respell"]
    words: list[Literal["capitals", "speaker_id", "speaker", "no_times", "task_id"]] = Field(min_length=1)

    @override
    def change(self, answer: Answer) -> Answer:
        payload = _json_object(answer)
        if payload is None:
            return answer
        for word in self.words:
            payload = respelled(payload, word)
        return _with_body(answer, payload)


class Inflate(_Fault):
    """Blow the answer's ``text`` up to so many bytes; with ``gzip`` few of them are on the wire."""

    action: Literal["inflate"]
    text_bytes: int = Field(ge=1, le=MAX_INFLATED_BYTES)
    gzip: bool = False

    @override
    def change(self, answer: Answer) -> Answer:
        payload = _json_object(answer)
        if payload is None:
            return answer
        head, _, tail = json.dumps({**payload, "text": "\x00"}).encode().partition(b"\\u0000")
        if not self.gzip:
            return replace(answer, body=b"".join((head, b"a" * self.text_bytes, tail)))
        packer = zlib.compressobj(wbits=31)
        block = b"a" * 1024 * 1024
        blocks = [packer.compress(head)]
        blocks += [packer.compress(block) for _ in range(self.text_bytes // len(block))]
        blocks += [packer.compress(block[: self.text_bytes % len(block)] + tail), packer.flush()]
        return replace(answer, body=b"".join(blocks), headers={**answer.headers, "content-encoding": "gzip"})


Fault = Annotated[
    Delay
    | ExpireTokens
    | StatusFault
    | Html
    | Redirect
    | RejectToken
    | DropBefore
    | DropAfter
    | Truncate
    | Drip
    | Malformed
    | Body
    | Patch
    | Respell
    | Inflate,
    Field(discriminator="action"),
]
FAULT: TypeAdapter[Fault] = TypeAdapter(Fault)


def _with_body(answer: Answer, body: JsonValue) -> Answer:
    if isinstance(body, str):
        return replace(answer, body=body.encode("utf-8", "surrogatepass"))
    return replace(answer, body=json.dumps(body).encode())


def _json_object(answer: Answer) -> dict[str, Any] | None:
    try:
        payload = json.loads(answer.body)
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None
