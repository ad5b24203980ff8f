"""
The hook and its async twin: two thin shells around the calls of :mod:`plaud_provider.api`.

They look up the connection, and have :mod:`.shells` perform what a call asks for. What to send, what an
answer means and whether to try again is decided in :mod:`plaud_provider.api.calls`, once for both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk.exceptions import AirflowNotFoundException

from plaud_provider import metrics
from plaud_provider.api import calls
from plaud_provider.api.arguments import validate_number
from plaud_provider.api.effects import Operation, Request, Response, SubmitPhase
from plaud_provider.api.regions import refuse_other_region
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.api.terms import checked_terms
from plaud_provider.api.waiting import Wait
from plaud_provider.auth.token_store import TokenStore
from plaud_provider.exceptions import PlaudError, PlaudTranscriptionFailedError, PlaudWaitTimeoutError
from plaud_provider.hooks.connection import DEFAULT_CONN_ID, PlaudSettings, look_up
from plaud_provider.hooks.shells import BlockingShell, run_blocking, tell_of_submit
from plaud_provider.hooks.transport import Limits
from plaud_provider.hooks.transport_requests import open_requests_session, send_with_requests
from plaud_provider.quota.opening import missing_connection, open_quota
from plaud_provider.quota.turns import ClientQuota, Turn
from plaud_provider.recordings.reference import AudioReference

if TYPE_CHECKING:
    from requests import Session

    from plaud_provider.api.models import Transcription
    from plaud_provider.hooks.plaud_async import PlaudAsyncHook

__all__ = ["PlaudAsyncHook", "PlaudHook"]

T = TypeVar("T")


def __getattr__(name: str) -> Any:
    # Most tasks need one of the two.
    if name == "PlaudAsyncHook":
        from plaud_provider.hooks.plaud_async import PlaudAsyncHook

        return PlaudAsyncHook
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PlaudHook(HttpHook):
    """
    Talk to the Plaud partner transcription API.

    Tokens are asked for once per host, kept encrypted in a file, renewed before they expire and when Plaud
    rejects them. Every request waits for its turn in the quota of ``requests_per_minute``, which all
    processes of the host share, results before submits. Reads are retried with full jitter; a submit is
    repeated only where it certainly was not accepted.

    Usable as a context manager, which closes its connections.

    :param plaud_conn_id: Connection of type ``plaud``: login = client id, password = secret key, extra
        ``region`` (``us``, ``eu``, ``jp``), ``requests_per_minute``, ``budget_conn_id``, ``allowed_hosts``;
        host = base URL override.
    :param region: What you take the connection's region to be. An assertion: if the connection says
        otherwise, an error is raised before any request.
    :param limits: Timeouts and size cap of one exchange.
    :param retry_policy: Bounds of retries.
    :param minute: Seconds of a minute of ``requests_per_minute`` and of Plaud's limit of token requests; less
        only for an emulator whose clock runs faster.
    :param settings: What the connection says, if it has been read already (each lookup is a request to
        Airflow).
    """

    conn_name_attr = "plaud_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "plaud"
    hook_name = "Plaud"

    def __init__(
        self,
        plaud_conn_id: str = default_conn_name,
        region: str | None = None,
        *,
        limits: Limits | None = None,
        retry_policy: RetryPolicy | None = None,
        minute: float = 60.0,
        settings: PlaudSettings | None = None,
    ) -> None:
        super().__init__(http_conn_id=plaud_conn_id)
        self.plaud_conn_id = plaud_conn_id
        self._asserted_region = region
        self._limits = limits or Limits()
        self.retry_policy = (retry_policy or RetryPolicy())._replace(minute=minute)
        self._minute = minute
        self._given_settings = settings
        self._session: Session | None = None

    @cached_property
    def settings(self) -> PlaudSettings:
        """The connection's settings, checked; raises before anything is sent."""
        if self._given_settings is None:
            return look_up(self.plaud_conn_id, region=self._asserted_region)
        refuse_other_region(self._given_settings.account.region, self._asserted_region, self.plaud_conn_id)
        return self._given_settings

    @cached_property
    def _token_store(self) -> TokenStore:
        return TokenStore(self.settings.account)

    @cached_property
    def _quota(self) -> ClientQuota:
        settings = self.settings
        shared = None
        if settings.budget_conn_id is not None:
            try:
                shared = self.get_connection(settings.budget_conn_id)
            except AirflowNotFoundException:
                raise missing_connection(settings.budget_conn_id) from None
        return open_quota(
            settings.account,
            settings.requests_per_minute,
            shared,
            exchange_seconds=self._limits.submit_seconds,
            minute=self._minute,
            log=self.log,
        )

    @property
    def region(self) -> str:
        """The connection's region: ``us``, ``eu`` or ``jp``."""
        return self.settings.account.region.value

    @property
    def client_id(self) -> str:
        """The Plaud client id that pays."""
        return self.settings.account.client_id

    def submit_transcription(
        self,
        audio_url: str | os.PathLike[str],
        *,
        language: str | None = None,
        webhook_url: str | None = None,
        speaker_diarization: bool = False,
        model: str | None = None,
        hotwords: Sequence[str] = (),
        decode_silence: bool = False,
        detection_level: str | None = None,
        url_validity: timedelta | float = timedelta(hours=6),
        public_urls: Mapping[str, str] | None = None,
        upload: str = "auto",
        on_phase: Callable[[SubmitPhase], None] | None = None,
    ) -> Transcription:
        """
        Submit a recording; an accepted submit is billed by audio length.

        :param audio_url: An M4A, MP3 or WAV file: a pre-signed URL, a storage reference, which is signed
            here, or a local file; checked as ``SubmitTranscriptionOperator`` does.
        :param language: BCP-47 code; left out, the language is detected.
        :param webhook_url: Where Plaud posts the result.
        :param speaker_diarization: Whether to label speakers.
        :param model: As for ``SubmitTranscriptionOperator``.
        :param hotwords: Likewise.
        :param decode_silence: Likewise.
        :param detection_level: Likewise.
        :param url_validity: How long Plaud has to fetch what is signed here.
        :param public_urls: From where Plaud can fetch local files: base URL by folder.
        :param upload: When the recording is uploaded to Plaud's own storage: ``auto``, ``always`` or
            ``never``, as for ``SubmitTranscriptionOperator``; it is remembered on this host.
        :param on_phase: Told right before each POST (``SENDING``) and when one certainly was not accepted
            (``NOT_ACCEPTED``), so that a caller can note what a killed process leaves behind.
        :return: The transcription, ``processing``.
        :raises PlaudInputError: for an argument that Plaud could not use; nothing is paid for.
        :raises PlaudSubmitOutcomeUnknownError: if it may have been accepted and the answer was lost.
        :raises PlaudError: any other of its classes: it was not accepted.
        """
        from plaud_provider.recordings.upload import looked_at, uploaded

        account = self.settings.account
        terms = checked_terms(
            language,
            speaker_diarization,
            self.settings.webhook_url(webhook_url),
            model=model,
            hotwords=hotwords,
            decode_silence=decode_silence,
            detection_level=detection_level,
        )
        account.dialect.check(terms)
        source, item = looked_at(
            account, audio_url, url_validity=url_validity, public_urls=public_urls, upload=upload
        )
        url = (
            source.url().reveal() if item is None else self.drive(uploaded(account, self.retry_policy, item))
        )
        call = calls.submit_transcription(account, self.retry_policy, audio_url=url, terms=terms)
        transcription = self.drive(call, on_phase=on_phase)
        tell_of_submit(self, audio_url)
        return transcription

    def transcribe(
        self,
        reference: str | os.PathLike[str],
        *,
        timeout: timedelta | float = timedelta(hours=24),
        poke_interval: float = 10.0,
        **options: Any,
    ) -> Transcription:
        """
        Submit a recording, wait for it, and return its transcription: for notebooks.

        Each call submits anew, and is billed; in a DAG, the operators remember what was submitted. The log
        has the transcription id as soon as there is one: with it, :meth:`get_transcription` has the result
        if this call is stopped.

        :param reference: The recording, as for :meth:`submit_transcription`.
        :param timeout: Seconds or timedelta until the wait ends.
        :param poke_interval: Seconds between two looks.
        :param options: As for :meth:`submit_transcription`: ``language``, ``speaker_diarization`` and so on.
        :return: The transcription, ``completed``.
        :raises PlaudTranscriptionFailedError: if Plaud could not transcribe it; the message says why.
        :raises PlaudWaitTimeoutError: if it was not finished in time; it goes on at Plaud.
        :raises PlaudError: its other classes, as :meth:`submit_transcription` and :meth:`get_transcription`.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        validate_number("timeout", seconds, minimum=0)
        validate_number("poke_interval", poke_interval, minimum=0)
        transcription_id = self.submit_transcription(reference, **options).transcription_id
        submitted_at = time.time()
        self.log.info("Plaud accepted %s as transcription %s.", AudioReference(reference), transcription_id)
        wait = Wait([transcription_id], started_at=submitted_at, deadline=submitted_at + seconds)
        trouble: PlaudError | None = None
        while (end := wait.result(now=time.time())) is None:
            time.sleep(max(0.0, min(poke_interval, wait.deadline - time.time())))
            try:
                transcription = self.get_transcription(transcription_id)
            except PlaudError as error:
                self.log.warning("A look at transcription %s failed: %s", transcription_id, error)
                wait.on_error(transcription_id, error, now=time.time(), submitted_at=submitted_at)
                trouble = error
            else:
                wait.on_transcription(transcription, now=time.time())
                trouble = None
        if end.outcome == "timeout":
            raise PlaudWaitTimeoutError(
                f"Transcription {transcription_id} was not finished in {seconds:g} seconds. It goes on at "
                f"Plaud: get_transcription({transcription_id!r}) has it later, nothing is paid twice."
            )
        if trouble is not None:
            # It was given up, or Plaud does not know it.
            raise trouble
        if end.failed:
            raise PlaudTranscriptionFailedError(
                f"Plaud could not transcribe {AudioReference(reference)} ({transcription_id}): "
                f"{transcription.error or 'it gave no reason'}"
            )
        return transcription

    def get_transcription(self, transcription_id: str) -> Transcription:
        """
        Ask for a transcription; costs one API call of the quota, no money.

        :param transcription_id: What :meth:`submit_transcription` returned.
        :raises PlaudNotFoundError: if Plaud does not know it (results are kept for a few days).
        :raises PlaudError: its other classes, after retries where they may pass.
        """
        call = calls.get_transcription(self.settings.account, transcription_id, self.retry_policy)
        transcription = self.drive(call)
        metrics.count(metrics.RESULTS, transcription.is_final)
        return transcription

    def test_connection(self) -> tuple[bool, str]:
        """
        Ask Plaud whether it knows the client: what the Test button does. Nothing is submitted.

        The credentials are exchanged for a token, past every cache. Where the API has a key, an id that
        nobody has is looked up with it before: that a key is refused can be seen, that it may submit cannot.
        """
        try:
            account = self.settings.account
            if not account.dialect.sends_token:
                self.drive(calls.verify_api_key(account, self.retry_policy), in_turn=False)
            token = self.drive(calls.verify_credentials(account, self.retry_policy), in_turn=False)
        except PlaudError as refused:
            # Airflow tests a copy of the connection, under an id that nobody knows.
            return False, str(refused).removeprefix(f"Connection {self.plaud_conn_id!r}: ")
        finally:
            self.close()
        hours = token.lifetime / 3600
        words = (
            f"Plaud accepted client {account.client_id} at {account.base_url} (region "
            f"'{account.region.value}'); the token is valid for {hours:.1f} hours."
        )
        if not account.dialect.sends_token:
            words += (
                " That token is for uploads. The API key was not refused when an id that nobody has was "
                "looked up; whether it may submit is only seen at the first submit, which costs money."
            )
        return True, words

    def get_conn(
        self, headers: dict[Any, Any] | None = None, extra_options: dict[str, Any] | None = None
    ) -> Session:
        """
        Return a requests session that cannot leak: no credentials, no redirects, no cookies.

        Unlike :class:`~airflow.providers.http.hooks.http.HttpHook`, it takes neither headers nor options from
        the connection's extra.
        """
        session = open_requests_session(self.settings.account.base_url)
        session.headers.update(headers or {})
        return session

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse arbitrary requests: they would go out without the token, retry and residency rules."""
        raise NotImplementedError(
            "PlaudHook.run: use transcribe(), submit_transcription() and get_transcription()."
        )

    def close(self) -> None:
        """Close the hook's connections; it opens new ones when used again."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> PlaudHook:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def drive(
        self,
        call: calls.Call[T],
        *,
        on_phase: Callable[[SubmitPhase], None] | None = None,
        in_turn: bool = True,
    ) -> T:
        """
        Perform the effects of a call, and return its result.

        :param call: A call of :mod:`plaud_provider.api.calls`, or what wraps one.
        :param on_phase: As for :meth:`submit_transcription`.
        :param in_turn: Whether it takes turns in the client's quota; token requests never do.
        """
        turn = Turn(self._quota) if in_turn else None
        shell = BlockingShell(self._token_store, turn, self.log, send=self._send, on_phase=on_phase)
        return run_blocking(shell.drive(call))

    def _send(self, request: Request, within: float | None) -> Response:
        limits = self._limits.of(request, within)
        if request.operation is Operation.PART:
            # To the host of its URL; several threads send parts at once.
            from plaud_provider.storage.bucket import no_debug_records

            # urllib3 would log the whole URL.
            with no_debug_records(), open_requests_session(request.url) as session:
                return send_with_requests(session, request, limits)
        if not request.repeatable:
            with self.get_conn() as session:
                return send_with_requests(session, request, limits)
        self._session = self._session or self.get_conn()
        try:
            return send_with_requests(self._session, request, limits)
        except BaseException:
            # The sockets of an exchange that was given up, or whose task is stopped, are shut, and its
            # session opens no more. After any other failure new connections are as good as old ones.
            self.close()
            raise
