"""What `plaud doctor` looks at: whether a first run would find all that it needs."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING

from plaud_provider.exceptions import (
    PlaudConnectionError,
    PlaudError,
    PlaudRateLimitError,
    PlaudServerError,
)

if TYPE_CHECKING:
    from plaud_provider.hooks.plaud import PlaudHook

#: Further than this a clock is wrong: signed URLs and tokens would be old, or not valid yet.
MOST_SECONDS_APART = 60.0
#: For how long the sample recording is signed.
VALIDITY = timedelta(minutes=10)
SECONDS_FOR_AN_ANSWER = 15.0
FOUND, WRONG, NOT_LOOKED_AT = "✓", "✗", "-"


class _NotLookedAtError(Exception):
    """Something cannot be looked at from here, or depends on what is wrong already."""


class _WrongError(Exception):
    """Something is wrong; the message says what to do."""


@dataclass
class Subject:
    """
    Whom to examine.

    :param plaud_conn_id: Connection of type ``plaud``.
    :param region: What its region is taken to be; ``None`` asserts nothing.
    :param sql_conn_id: Connection of the warehouse; ``None`` for a lake alone.
    :param lake_path: Folder of an open lake beside it, or instead of it; ``None`` for none.
    :param lake_format: Format of its tables.
    :param lake_catalog_conn_id: Connection of Iceberg's catalog.
    :param ledger_conn_id: Connection of the ledger.
    :param results_path: Folder that workers and triggerers share; ``None``: as the DAGs find it.
    :param recording: Reference to a recording that is signed and fetched; ``None`` for none.
    """

    plaud_conn_id: str = "plaud_default"
    region: str | None = None
    sql_conn_id: str | None = "warehouse_default"
    lake_path: str | None = None
    lake_format: str = "iceberg"
    lake_catalog_conn_id: str | None = None
    ledger_conn_id: str = "warehouse_default"
    results_path: str | None = None
    recording: str | None = None
    _is_connected: bool = field(default=False, init=False)
    _is_accepted: bool = field(default=False, init=False)

    @cached_property
    def hook(self) -> PlaudHook:
        """The hook that the tasks would use."""
        from plaud_provider.hooks.plaud import PlaudHook

        return PlaudHook(self.plaud_conn_id, self.region)

    @property
    def connected(self) -> PlaudHook:
        """The hook, once its connection has been found to be good."""
        if not self._is_connected:
            raise _NotLookedAtError("the connection comes first")
        return self.hook

    def connection(self) -> str:
        """Read the Plaud connection."""
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            client_id = self.hook.client_id
        except AirflowNotFoundException:
            raise _WrongError(
                f"there is no Airflow connection {self.plaud_conn_id!r}. Create it (Admin > Connections, "
                f"or AIRFLOW_CONN_{self.plaud_conn_id.upper()}), or name another with --plaud-conn-id"
            ) from None
        self._is_connected = True
        return f"{self.plaud_conn_id}, client id {client_id}"

    def region_and_host(self) -> str:
        """Say which region its requests go to, and to which host."""
        account = self.connected.settings.account
        return f"{account.region.value}, at {account.base_url}"

    def token(self) -> str:
        """Have the credentials exchanged for a token, which is free."""
        self._is_accepted, words = self.connected.test_connection()
        if not self._is_accepted:
            raise _WrongError(words)
        return words

    def api(self) -> str:
        """
        Ask the other one of Plaud's APIs whether it knows the client, which is free.

        It is asked at its own host in the same region, or where the connection's base URL leads.
        """
        from plaud_provider.api.calls import verify_api_key, verify_credentials
        from plaud_provider.api.dialects import DIALECTS
        from plaud_provider.hooks.plaud import PlaudHook

        settings = self.connected.settings
        account = settings.account
        own = account.dialect
        [other] = [dialect for dialect in DIALECTS.values() if dialect is not own]
        try:
            its_url = other.base_url(account.region)
        except PlaudError:
            return f"{own.name}; {other.name} is not offered in region '{account.region.value}'"
        base_url = its_url if account.base_url == own.base_url(account.region) else account.base_url
        elsewhere = replace(account, base_url=base_url, dialect=other, api_key=self._api_key() or "")
        with PlaudHook(self.plaud_conn_id, settings=settings._replace(account=elsewhere)) as hook:
            try:
                if elsewhere.api_key and not other.sends_token:
                    hook.drive(verify_api_key(elsewhere, hook.retry_policy), in_turn=False)
                else:
                    hook.drive(verify_credentials(elsewhere, hook.retry_policy), in_turn=False)
            except (PlaudConnectionError, PlaudServerError, PlaudRateLimitError) as away:
                raise _NotLookedAtError(f"whether {other.name} takes this client as well: {away}") from None
            except PlaudError as refused:
                return f"{own.name}; {other.name} at {base_url} does not take this client: {refused}"
        if self._is_accepted:
            return f"{own.name}; {other.name} at {base_url} takes this client as well"
        raise _WrongError(
            f"the client is one of the API {other.name}, at {base_url}: set the connection's field api to it"
            f"{', and api_key' * (not other.sends_token and not elsewhere.api_key)}"
        )

    def _api_key(self) -> str | None:
        """Return the connection's API key, whichever API it says."""
        from airflow.sdk import BaseHook

        extra = json.loads(BaseHook.get_connection(self.plaud_conn_id).extra or "{}")
        return str(extra.get("api_key") or "").strip() or None

    def clock(self) -> str:
        """Compare this host's clock with that of Plaud's server."""
        import requests

        hook = self.connected
        base_url = hook.settings.account.base_url
        try:
            before = datetime.now(tz=UTC)
            with hook.get_conn() as session:
                answer = session.head(base_url, timeout=SECONDS_FOR_AN_ANSWER)
            after = datetime.now(tz=UTC)
        except requests.RequestException as error:
            raise _WrongError(f"{base_url} did not answer ({type(error).__name__}): see the token") from None
        told = answer.headers.get("Date")
        if told is None:
            raise _NotLookedAtError("the server's answer has no date")
        # Its date has whole seconds.
        server = parsedate_to_datetime(told).astimezone(UTC) + timedelta(seconds=0.5)
        apart = (before + (after - before) / 2 - server).total_seconds()
        if abs(apart) > MOST_SECONDS_APART:
            raise _WrongError(
                f"this host is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} Plaud's server: "
                "synchronize it (NTP), or signed URLs expire too early or too late"
            )
        return f"within {max(1.0, abs(apart)):.0f} s of Plaud's server"

    def warehouse(self) -> str:
        """Open warehouse and lake as the tasks do, and write, read and remove a scratch row."""
        from plaud_provider.warehouse.lake import checked_lake
        from plaud_provider.warehouse.writer import open_warehouse

        lake = checked_lake(self.lake_path, self.lake_format, self.lake_catalog_conn_id)
        places = [self.sql_conn_id, f"{lake.path} ({lake.format})" if lake else None]
        fit = f"{' and '.join(filter(None, places))}: plaud_transcripts and plaud_segments are there and fit"
        open_warehouse(self.sql_conn_id, lake=lake).try_out()
        return f"{fit}; a row was written, read and removed"

    def ledger(self) -> str:
        """Open the ledger as the tasks do."""
        from plaud_provider.ledger.ledger import open_ledger
        from plaud_provider.ledger.summary import count_states

        with contextlib.closing(open_ledger(self.ledger_conn_id)) as ledger:
            known = sum(one.recordings for one in count_states(ledger.database) or [])
        return f"{self.ledger_conn_id}: plaud_submissions is there and fits; it knows {known:,} recordings"

    def storage_signing(self) -> str:
        """Look a recording up, sign it, and fetch its first byte by the signed URL."""
        import requests

        from plaud_provider.recordings.local_files import validate_public_urls
        from plaud_provider.recordings.reference import AudioReference
        from plaud_provider.recordings.sources import audio_source

        if self.recording is None:
            raise _NotLookedAtError(
                "name one of your recordings: --recording s3://connection@bucket/name.mp3"
            )
        public_urls = validate_public_urls(_variable("plaud_public_urls"))
        audio = AudioReference(self.recording)
        source = audio_source(audio, url_validity=VALIDITY, public_urls=public_urls)
        source.connect()
        source.look()
        signed = source.url()
        try:
            with requests.get(
                signed.reveal(),
                headers={"Range": "bytes=0-0"},
                stream=True,
                timeout=SECONDS_FOR_AN_ANSWER,
            ) as answer:
                status = answer.status_code
        # Its message has the URL, signature included.
        except requests.RequestException as error:
            raise _WrongError(
                f"{audio.uri} was signed, and {signed.host} does not answer from here "
                f"({type(error).__name__}): Plaud has to reach it"
            ) from None
        if status not in (200, 206):
            raise _WrongError(
                f"{audio.uri} was signed, and {signed.host} answers {status} to it: the connection that "
                "signs needs the right to read objects (s3:GetObject), not only to list them"
            )
        return f"{audio.uri} was signed, and can be fetched by that URL from here"

    def triggerer(self) -> str:
        """Look for a triggerer that is alive."""
        hosts = _living_hosts("TriggererJob")
        if not hosts:
            raise _WrongError("none is running, so that no wait ever ends: start `airflow triggerer`")
        return f"{len(hosts)} running, on {', '.join(sorted(set(hosts)))}"

    def shared_results(self) -> str:
        """Write, read and remove a file at ``results_path``, and ask who else would find it."""
        from plaud_provider.storage.folder import LocalFolder, parse_folder
        from plaud_provider.task_groups.form import default_results_folder

        path = self.results_path or _variable("plaud_results_path") or default_results_folder()
        folder = parse_folder(path, argument="results_path", state="Nothing was sent.")
        folder.open()
        name, content = f"plaud-doctor-{secrets.token_hex(8)}", b"plaud doctor"
        folder.write(name, content)
        try:
            if folder.read(name) != content:
                raise _WrongError(f"{path}: what was written is not what was read")
        finally:
            folder.remove([name])
        if not isinstance(folder, LocalFolder):
            return f"{path} can be written and read; it is in object storage, so all hosts share it"
        with contextlib.suppress(_NotLookedAtError):
            others = {*_living_hosts("TriggererJob"), *_living_hosts("SchedulerJob")} - _names_of_this_host()
            if others:
                raise _NotLookedAtError(
                    f"{path} can be written and read here; whether {', '.join(sorted(others))} has the same "
                    "folder cannot be seen from here. If not, set the Airflow variable plaud_results_path to "
                    "a folder in object storage"
                )
        return f"{path} can be written and read; only what runs on this host has it"


#: What is looked at, by the name that it is reported under. What is wrong with one does not hide the next.
CHECKS: dict[str, Callable[[Subject], str]] = {
    "connection": Subject.connection,
    "region": Subject.region_and_host,
    "token": Subject.token,
    "api": Subject.api,
    "clock": Subject.clock,
    "warehouse": Subject.warehouse,
    "ledger": Subject.ledger,
    "storage signing": Subject.storage_signing,
    "triggerer": Subject.triggerer,
    "results_path": Subject.shared_results,
}


def examine(subject: Subject) -> int:
    """
    Look at everything, print a line for each, and return the exit code: 1 if anything is wrong.

    Nothing is submitted, so nothing is paid for.

    :param subject: Whom to examine.
    """
    wrong = 0
    for name, check in CHECKS.items():
        mark, words = _finding(check, subject)
        wrong += mark == WRONG
        print(f"{mark} {name:16} {words}", flush=True)
    print(f"\n{wrong} of {len(CHECKS)} need something." if wrong else "\nNothing is wrong.")
    return 1 if wrong else 0


def _finding(check: Callable[[Subject], str], subject: Subject) -> tuple[str, str]:
    try:
        return FOUND, check(subject)
    except _NotLookedAtError as reason:
        return NOT_LOOKED_AT, f"not looked at: {reason}"
    except (_WrongError, PlaudError) as error:
        return WRONG, str(error)
    except Exception as error:
        # Of what is not ours the kind is told only: its words may quote a secret.
        return WRONG, f"failed with {type(error).__module__}.{type(error).__name__}, which was not foreseen"


def _variable(name: str) -> str | None:
    from airflow.sdk import Variable

    value: str | None = Variable.get(name, default=None)
    return value


def _living_hosts(job_type: str) -> list[str]:
    """Return the host of each component of a kind that is alive, by Airflow's own database."""
    import sqlalchemy as sa

    try:
        from airflow.jobs.job import Job
        from airflow.utils.session import create_session

        # Airflow's models warn about themselves when they are first used.
        with warnings.catch_warnings(action="ignore"), create_session() as session:
            jobs = session.scalars(sa.select(Job).where(Job.job_type == job_type, Job.state == "running"))
            return [str(job.hostname) for job in jobs if job.is_alive()]
    # On a worker of Airflow 3 there is no database to ask.
    except Exception as error:
        raise _NotLookedAtError(
            f"Airflow's own database cannot be asked from here ({type(error).__name__}); run this where the "
            "scheduler runs, after `airflow db migrate`"
        ) from None


def _names_of_this_host() -> set[str]:
    from airflow.utils.net import get_hostname

    return {get_hostname(), socket.gethostname(), socket.getfqdn()}
