"""What is wrong is said in a line of its own, with what to do; nothing is paid for, and nothing leaks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plaud_provider import doctor
from plaud_provider.cli import main
from plaud_provider.doctor import CHECKS
from plaud_provider.emulator.server import EmulatorServer
from tests.unit.recordings.sounds import wav
from tests.unit.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.unit.warehouse.warehouses import connected

MISSING = "there is no Airflow connection 'nonesuch'"
Lines = dict[str, tuple[str, str]]


@pytest.fixture(autouse=True)
def whole(plaud: EmulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation in which nothing is wrong but that it has no Airflow running."""
    connected("sqlite", tmp_path, monkeypatch)

    def nowhere(kind: str) -> list[str]:
        # Other tests of this process may have given it one. Whom it finds is tested beside a real Airflow.
        raise doctor._NotLookedAtError("there is no database of Airflow here")

    monkeypatch.setattr(doctor, "_living_hosts", nowhere)


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Lines, str]:
    """Run the command; return its exit code, what it says by the name of each check, and its words."""
    code = main(["doctor", *arguments])
    words = capsys.readouterr().out
    lines: Lines = {}
    for line in words.splitlines():
        for name in CHECKS:
            if line[2:].startswith(f"{name} "):
                lines[name] = (line[0], line[2 + len(name) :].strip())
    assert list(lines) == list(CHECKS), words
    return code, lines, words


def test_what_is_there_is_found(capsys: pytest.CaptureFixture[str], plaud: EmulatorServer) -> None:
    code, lines, _ = examined(capsys)

    marks = {name: mark for name, (mark, _) in lines.items()}
    # Neither a recording nor Airflow's database is there to be looked at.
    assert marks == dict.fromkeys(CHECKS, "✓") | {"storage signing": "-", "triggerer": "-"}
    assert code == 0
    assert lines["connection"][1] == "plaud_default, client id client"
    assert lines["region"][1] == f"us, at {plaud.url}"
    assert lines["token"][1].startswith("Plaud accepted client client")
    assert lines["warehouse"][1].endswith("a row was written, read and removed")
    assert "--recording" in lines["storage signing"][1]


def test_it_pays_nothing_and_prints_no_secret(
    capsys: pytest.CaptureFixture[str], plaud: EmulatorServer, s3: S3Server
) -> None:
    s3.put("call.wav", wav(1.0, rate=400))
    code, lines, words = examined(capsys, "--recording", f"s3://aws_calls@{BUCKET}/call.wav")

    assert code == 0, words
    assert lines["storage signing"] == (
        "✓",
        f"s3://aws_calls@{BUCKET}/call.wav was signed, and can be fetched by that URL from here",
    )
    assert plaud.ledger(kind="submit") == []
    for secret in ("secret-key-canary", SECRET_KEY, ACCESS_KEY, "Signature", "X-Amz"):
        assert secret not in words


@pytest.mark.parametrize(
    ("change", "arguments", "name", "words"),
    [
        ({"password": ""}, [], "connection", "the password (Plaud secret key) is empty. Fill it in"),
        ({}, ["--plaud-conn-id", "nonesuch"], "connection", f"{MISSING}. Create it"),
        (
            {},
            ["--region", "eu"],
            "connection",
            "'eu' was asked for, but connection 'plaud_default' belongs to",
        ),
        ({"password": "another-canary"}, [], "token", "Plaud refused client id"),
        (
            {},
            ["--sql-conn-id", "nonesuch"],
            "warehouse",
            "there is no Airflow connection 'nonesuch'. Create it",
        ),
        (
            {},
            ["--ledger-conn-id", "nonesuch"],
            "ledger",
            "there is no Airflow connection 'nonesuch'. Create it",
        ),
        ({}, ["--results-path", "relative"], "results_path", "pass an absolute path"),
        (
            {},
            ["--recording", "s3://none@bucket/a.mp3"],
            "storage signing",
            "connection 'none', which does not",
        ),
        ({}, ["--recording", "ftp://files.example/a.mp3"], "storage signing", "has the scheme 'ftp'"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    plaud: EmulatorServer,
    change: dict[str, str],
    arguments: list[str],
    name: str,
    words: str,
) -> None:
    connection = {**json.loads(plaud.airflow_connection), **change}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    code, lines, said = examined(capsys, *arguments)

    assert code == 1
    assert lines[name][0] == "✗"
    assert words in lines[name][1]
    assert "another-canary" not in said
    assert plaud.ledger(kind="submit") == []


def test_what_depends_on_a_connection_that_is_wrong_is_not_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, lines, _ = examined(capsys, "--plaud-conn-id", "nonesuch")

    assert {name for name, (_, words) in lines.items() if "the connection comes first" in words} == {
        "region",
        "token",
        "api",
        "clock",
    }
    assert lines["warehouse"][0] == "✓"


@pytest.mark.parametrize(
    ("extra", "mark", "words"),
    [
        ({"region": "us"}, "✓", "openapi; embedded at http"),
        ({"region": "us", "api_key": "wrong-canary"}, "✓", "does not take this client"),
        ({"region": "us", "api": "embedded", "api_key": "key-canary"}, "✓", "embedded; openapi at http"),
        ({"region": "eu"}, "✓", "openapi; embedded is not offered in region 'eu'"),
    ],
)
def test_the_other_api_is_asked_whether_it_knows_the_client(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    plaud: EmulatorServer,
    extra: dict[str, str],
    mark: str,
    words: str,
) -> None:
    monkeypatch.setitem(plaud.settings.api_keys, "client", "key-canary")  # type: ignore[arg-type]
    connection = {**json.loads(plaud.airflow_connection), "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    _, lines, said = examined(capsys)

    assert lines["api"][0] == mark
    assert words in lines["api"][1]
    assert "canary" not in said
    assert plaud.ledger(kind="submit") == []


def test_an_api_that_cannot_be_reached_is_not_said_to_refuse_the_client(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, plaud: EmulatorServer
) -> None:
    connection = {**json.loads(plaud.airflow_connection), "host": "http://127.0.0.1:9"}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    _, lines, _ = examined(capsys)

    assert lines["token"][0] == "✗"
    assert lines["api"][0] == "-"
    assert "not looked at: whether embedded takes this client" in lines["api"][1]


def test_a_client_of_the_other_api_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, plaud: EmulatorServer
) -> None:
    monkeypatch.setitem(plaud.settings.api_keys, "client", "key-canary")  # type: ignore[arg-type]
    connection = json.loads(plaud.airflow_connection)
    connection |= {"password": "wrong-canary", "extra": {"api_key": "key-canary"}}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    code, lines, said = examined(capsys)

    assert code == 1
    assert lines["api"][0] == "✗"
    assert "the client is one of the API embedded" in lines["api"][1]
    assert "set the connection's field api to it" in lines["api"][1]
    assert "canary" not in said


def test_a_clock_that_is_wrong_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(tz=UTC) - timedelta(minutes=5)

    monkeypatch.setattr(doctor, "datetime", Late)
    code, lines, _ = examined(capsys)

    assert code == 1
    assert lines["clock"][0] == "✗"
    assert "s behind Plaud's server: synchronize it" in lines["clock"][1]


def test_what_was_not_foreseen_is_told_by_its_kind_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(subject: doctor.Subject) -> str:
        raise ValueError("password-canary")

    monkeypatch.setitem(CHECKS, "warehouse", surprise)
    code, lines, said = examined(capsys)

    assert code == 1
    assert lines["warehouse"] == ("✗", "failed with builtins.ValueError, which was not foreseen")
    assert "password-canary" not in said
