"""What trouble a Plaud server has, when, and what its own record says of those who asked it meanwhile."""

from __future__ import annotations

import json
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from demo.processes import Supervisor, child_environment, wait_until

SERVER = Path(__file__).with_name("trouble_server.py")
PAGE = "<html><head><title>Gateway</title></head><body>No route.</body></html>"
HTML = {"body": PAGE, "type": "text/html"}
SUBMITS: dict[str, Any] = {"calls": ["submit"]}
CALLS: dict[str, Any] = {"calls": ["submit", "get"]}
#: Seconds that a proxy or gateway which restarts takes.
MOMENT = 5.0
#: Part of the time that is trouble; the rest is for getting over it.
PART = 0.25
#: Full speed is so much of the quota in a minute.
FULL = 0.8

#: The most telling first: a short test has the first of them.
KINDS: tuple[tuple[dict[str, Any], ...], ...] = (
    ({"name": "503", "status": 503},),
    ({"name": "429", **CALLS, "status": 429},),
    ({"name": "HTML 200", **CALLS, "status": 200, "effect": "half", **HTML},),
    ({"name": "connections dropped", "drop": True, "effect": "half"},),
    ({"name": "HTML 404", **CALLS, "status": 404, **HTML},),
    ({"name": "token endpoint 503", "calls": ["token"], "status": 503, "revoke": True},),
    ({"name": "429 with Retry-After", **CALLS, "status": 429, "headers": {"Retry-After": "20"}},),
    ({"name": "hanging", **CALLS, "hang": True, "effect": True},),
    ({"name": "503 on submits", **SUBMITS, "status": 503},),
    ({"name": "submits answered late", **SUBMITS, "late": 61},),
    ({"name": "401 for a moment", "client": "archive", "status": 401, "lasts": MOMENT},),
    ({"name": "403 for a moment", **CALLS, "client": "archive", "status": 403, "lasts": MOMENT},),
    ({"name": "garbage", **CALLS, "status": 200, "body": '{"transcriptionId": [', "effect": "half"},),
    ({"name": "502 on submits", **SUBMITS, "status": 502, "effect": "half", **HTML},),
    (
        {"name": "capitals", "words": "capitals", "share": 0.5},
        {"name": "other words", "words": "embedded"},
    ),
)
#: One id each that is refused for ever, with how long that takes to be believed.
FOR_EVER = {403: 3, 422: 6}
FOR_EVER_IF_LONG = {410: 9}


class Trouble(NamedTuple):
    """
    A trouble.

    :param names: As in the record.
    :param start: Epoch seconds.
    :param end: Likewise.
    """

    names: tuple[str, ...]
    start: float
    end: float


def plan(
    minutes: float, *, began: float, kinds: int = len(KINDS)
) -> tuple[list[Trouble], list[dict[str, Any]]]:
    """
    Spread troubles over some time.

    :param minutes: How long.
    :param began: Epoch seconds.
    :param kinds: How many of the kinds at most.
    :return: The troubles, and what the server is told.
    """
    count = max(2, min(kinds, int(minutes * 60 // 90)))
    each = minutes * 60 / count
    forever = FOR_EVER | (FOR_EVER_IF_LONG if minutes >= 15 else {})
    told = [
        {
            "name": f"{status} for one id",
            "calls": ["get"],
            "client": "archive",
            "nth": [number],
            "status": status,
            "body": '{"error": "NOT_ALLOWED"}',
            "start": 0.0,
            "end": 1e12,
        }
        for status, number in forever.items()
    ]
    troubles = []
    for number, kind in enumerate(KINDS[:count]):
        start = began + number * each
        end = start + PART * each
        troubles.append(Trouble(tuple(one["name"] for one in kind), start, end))
        told += [{**one, "start": start, "end": end} for one in kind]
    return troubles, told


@dataclass
class Request:
    """A request as the server has recorded it; ``status`` is ``None`` where it was not answered."""

    n: int
    at: float
    call: str
    client: str
    audio: str = ""
    transcription_id: str = ""
    answered_at: float = float("inf")
    status: int | None = None
    trouble: str | None = None
    accepted: str | None = None
    over: bool = False


class TroubledPlaud:
    """
    The server as a process.

    :param supervisor: Starts the process, and ends it.
    :param work: Folder for its record and its log.
    :param request_limit: Requests a minute that it takes of each client.
    """

    def __init__(self, supervisor: Supervisor, work: Path, request_limit: int) -> None:
        self.request_limit = request_limit
        self._record = work / "requests.jsonl"
        port_file = work / "troubled.port"
        process = supervisor.start(
            "troubled plaud",
            [
                *(sys.executable, "-P", str(SERVER), "--port-file", str(port_file)),
                *("--record", str(self._record), "--request-limit", str(request_limit)),
            ],
            env=child_environment({}),
            log_path=work / "troubled.log",
        )

        def listening() -> bool:
            process.check()
            return port_file.exists()

        wait_until(listening, timeout=30, what="the server listens")
        self._port = int(port_file.read_text())
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30, trust_env=False)

    def connection(self, client_id: str) -> dict[str, Any]:
        return {
            "conn_type": "plaud",
            "login": client_id,
            "password": f"secret-of-{client_id}",
            "host": "http://127.0.0.1",
            "port": self._port,
            "extra": {"region": "us", "requests_per_minute": self.request_limit},
        }

    def set_trouble(self, told: Sequence[dict[str, Any]]) -> None:
        self._client.post("/_trouble", json=list(told)).raise_for_status()

    def set(self, **settings: Any) -> None:
        self._client.post("/_settings", json=settings).raise_for_status()

    def submit(self, client_id: str, name: str) -> str:
        """Have it accept a recording, as some other program might."""
        token = self._client.post("/oauth/partner/access-token", auth=(client_id, "secret"))
        answer = self._client.post(
            "/open/partner/ai/transcriptions/",
            json={"audioUrl": f"https://recordings.example.com/{name}"},
            headers={"Authorization": f"Bearer {token.json()['access_token']}"},
        )
        answer.raise_for_status()
        return str(answer.json()["transcriptionId"])

    def record(self) -> Record:
        return Record.read(json.loads(line) for line in self._record.read_text().splitlines())


@dataclass
class Record:
    """What the server has seen, in order."""

    requests: list[Request] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[Mapping[str, Any]]) -> Record:
        """Read the lines of a server's record."""
        found: dict[int, Request] = {}
        for told in lines:
            if "at" in told:
                found[told["n"]] = Request(**told)
            else:
                for name, value in told.items():
                    setattr(found[told["n"]], name, value)
        return cls(list(found.values()))

    def of(self, *calls: str, client: str | None = None) -> list[Request]:
        return [
            one for one in self.requests if one.call in calls and (client is None or one.client == client)
        ]

    def accepted(self) -> list[Request]:
        """Return the submits that it bills."""
        return [one for one in self.of("submit") if one.accepted is not None]

    def busiest_minute(self, *calls: str, client: str) -> int:
        times = [one.at for one in self.of(*calls, client=client)]
        return max((index + 1 - bisect_left(times, at - 60.0) for index, at in enumerate(times)), default=0)

    def consumed(self) -> Counter[str]:
        """Return how many requests met with each trouble."""
        return Counter(one.trouble for one in self.requests if one.trouble)

    def until_full_speed(self, moment: float, *, client: str, limit: int) -> float | None:
        """Return after how many seconds a minute begins in which a client uses its quota; ``None``: never."""
        times = [one.at for one in self.of("submit", "get", client=client)]
        for index in range(bisect_left(times, moment), len(times)):
            if bisect_left(times, times[index] + 60.0) - index >= FULL * limit:
                return times[index] - moment
        return None

    def sent_during(self, trouble: Trouble) -> list[Request]:
        """Return the submits that met with a trouble."""
        return [one for one in self.of("submit") if one.trouble in trouble.names]

    def in_flight_at(self, moment: float) -> list[Request]:
        """Return the submits that were not answered at a moment."""
        return [one for one in self.of("submit") if one.at <= moment < one.answered_at]

    def submitted_names(self) -> set[str]:
        return {one.audio for one in self.of("submit")}


def twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
