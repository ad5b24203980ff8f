from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.sdk import Connection

from plaud_provider.api.account import Account
from plaud_provider.api.regions import Region
from plaud_provider.auth.token_store import TokenStore
from plaud_provider.quota.opening import quota_store
from plaud_provider.quota.rule import Quota
from tests.unit.quota.conftest import Spoil, insecure, unwritable

REPOSITORY = Path(__file__).resolve().parents[3]


def account(
    *, base_url: str = "https://openapi.plaud.ai", client_id: str = "client", secret_key: str = "secret"
) -> Account:
    return Account(Region.US, base_url, client_id, secret_key)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    return tmp_path / "airflow"


def count(quota: Quota, now: float) -> int:
    quota.overtaken += 1
    return quota.overtaken


def test_all_of_a_process_share_one_object(home: Path) -> None:
    assert quota_store(account()) is quota_store(account())


def test_a_client_s_connections_share_its_quota_whatever_their_secret() -> None:
    """Plaud's limit is per client id."""
    assert quota_store(account(secret_key="old")) is quota_store(account(secret_key="new"))


@pytest.mark.parametrize(
    "other", [account(client_id="another"), account(base_url="https://openapi.plaud.eu")]
)
def test_another_client_and_another_host_have_a_quota_of_their_own(other: Account) -> None:
    quota_store(account()).update(count)

    assert quota_store(other).update(count) == 1


def test_the_quota_lies_beside_the_client_s_tokens(home: Path) -> None:
    quota_store(account()).update(count)

    store = TokenStore(account())
    assert (home / "plaud_tokens" / f"{store.lock_path.stem}.budget").exists()
    assert store.path.parent == home / "plaud_tokens"


def test_another_airflow_home_is_another_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota_store(account()).update(count)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "another"))

    assert quota_store(account()).update(count) == 1


@pytest.mark.parametrize("spoil", [insecure, unwritable])
def test_without_a_private_folder_a_process_keeps_a_quota_of_its_own(
    home: Path, spoil: Spoil, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(home / "nowhere" / "file"))
    (home / "plaud_tokens").mkdir(parents=True, mode=0o700)
    spoil(home / "plaud_tokens")
    (home / "nowhere").write_text("")

    assert [quota_store(account()).update(count) for _ in range(3)] == [1, 2, 3]

    [record] = caplog.records
    assert "mode 0700" in record.getMessage()


def test_a_shared_quota_lies_in_the_database(sql_connection: Connection, home: Path) -> None:
    quota_store(account(), sql_connection).update(count)

    assert list((home / "plaud_tokens").iterdir()) == []
    assert quota_store(account(), sql_connection).update(count) == 2


def test_while_the_database_is_away_the_host_keeps_a_quota_of_its_own(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = Connection(
        conn_id="shared",
        conn_type="postgres",
        host="127.0.0.1",
        port=1,
        login="l",
        password="password-canary",
    )

    assert [quota_store(account(), away).update(count) for _ in range(3)] == [1, 2, 3]
    assert quota_store(account()).update(count) == 4

    [record] = caplog.records
    assert "connection 'shared' cannot be used" in record.getMessage()
    assert "each host sends one request a minute" in record.getMessage()
    assert "canary" not in caplog.text


def test_a_connection_with_a_new_password_is_opened_anew(sql_connection: Connection) -> None:
    before = quota_store(account(), sql_connection)
    sql_connection.password = "renewed"

    assert quota_store(account(), sql_connection) is not before


def test_without_a_database_nothing_heavy_is_loaded(home: Path) -> None:
    """Each task instance is a process of its own."""
    script = (
        "import json, sys\n"
        "from airflow.sdk import BaseHook\n"
        "import cryptography\n"
        "before = set(sys.modules)\n"
        "import plaud_provider.quota.turns\n"
        "from plaud_provider.quota.opening import quota_store\n"
        "from plaud_provider.api.account import Account\n"
        "from plaud_provider.api.regions import Region\n"
        "quota_store(Account(Region.US, 'https://x', 'client', 'key')).update(lambda quota, now: None)\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(roots - sys.stdlib_module_names)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"AIRFLOW_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout.splitlines()[-1]) == ["plaud_provider"]
