"""The hook's async twin: native async, the same calls and decisions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from plaud_provider import metrics
from plaud_provider.api import calls
from plaud_provider.api.effects import SubmitPhase
from plaud_provider.api.regions import refuse_other_region
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.api.terms import checked_terms
from plaud_provider.auth.token_store import TokenStore
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.hooks.connection import DEFAULT_CONN_ID, PlaudSettings, no_connection, read_connection
from plaud_provider.hooks.shells import AsyncShell, tell_of_submit
from plaud_provider.hooks.transport import Limits
from plaud_provider.hooks.transport_aiohttp import AiohttpTransport
from plaud_provider.quota.opening import missing_connection, open_quota
from plaud_provider.quota.turns import AsyncClientQuota

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from plaud_provider.api.models import Transcription

T = TypeVar("T")


class PlaudAsyncHook(BaseHook):
    """
    The hook for triggers and async tasks: same calls, same decisions, native async.

    Use it as an async context manager; it looks its connection up when it is entered. A task may use it under
    :func:`asyncio.run`.

    :param plaud_conn_id: As for :class:`~plaud_provider.hooks.plaud.PlaudHook`.
    :param region: As for :class:`~plaud_provider.hooks.plaud.PlaudHook`.
    :param limits: As for :class:`~plaud_provider.hooks.plaud.PlaudHook`.
    :param retry_policy: As for :class:`~plaud_provider.hooks.plaud.PlaudHook`.
    :param minute: As for :class:`~plaud_provider.hooks.plaud.PlaudHook`.
    :param settings: What the connection says, if it has been read already (``PlaudHook.settings``); it is not
        looked up then.
    """

    def __init__(
        self,
        plaud_conn_id: str = DEFAULT_CONN_ID,
        region: str | None = None,
        *,
        limits: Limits | None = None,
        retry_policy: RetryPolicy | None = None,
        minute: float = 60.0,
        settings: PlaudSettings | None = None,
    ) -> None:
        super().__init__()
        self.plaud_conn_id = plaud_conn_id
        self._asserted_region = region
        self._limits = limits or Limits()
        self.retry_policy = (retry_policy or RetryPolicy())._replace(minute=minute)
        self._minute = minute
        self._given_settings = settings

    async def __aenter__(self) -> PlaudAsyncHook:
        self.settings = await self._read_settings()
        if (budget_conn_id := self.settings.budget_conn_id) is None:
            # Nothing is asked of the supervisor, so any thread will do, and asgiref need not be imported.
            await asyncio.to_thread(self._open, None)
        else:
            from airflow.providers.common.compat.connection import get_async_connection
            from asgiref.sync import sync_to_async

            try:
                shared = await get_async_connection(budget_conn_id)
            except AirflowNotFoundException:
                raise missing_connection(budget_conn_id) from None
            # On Airflow 3.2, what a thread asks of the supervisor only arrives if asgiref started the thread.
            await sync_to_async(self._open, thread_sensitive=False)(shared)
        return self

    def _open(self, shared: Connection | None) -> None:
        """Open what takes reading files and databases, in a thread."""
        account = self.settings.account
        quota = open_quota(
            account,
            self.settings.requests_per_minute,
            shared,
            exchange_seconds=self._limits.submit_seconds,
            minute=self._minute,
            log=self.log,
        )
        self._quota = AsyncClientQuota(quota)
        self._store = TokenStore(account)
        self._transport = AiohttpTransport(account.base_url, self._limits)

    async def _read_settings(self) -> PlaudSettings:
        if self._given_settings is None:
            from airflow.providers.common.compat.connection import get_async_connection

            try:
                connection = await get_async_connection(self.plaud_conn_id)
            except AirflowNotFoundException:
                # A failure of Airflow's API looks the same: a trigger tries again.
                raise AirflowNotFoundException(no_connection(self.plaud_conn_id)) from None
            return read_connection(connection, region=self._asserted_region)
        region = self._given_settings.account.region
        refuse_other_region(region, self._asserted_region, self.plaud_conn_id)
        return self._given_settings

    async def take_new_secrets(self) -> None:
        """
        Take the secret key and API key that the connection has by now: they may have been changed.

        A connection that cannot be read now, or is of another client, changes nothing.
        """
        try:
            settings = await self._read_settings()
        except (AirflowNotFoundException, PlaudConfigurationError) as unreadable:
            self.log.warning("The connection could not be read again: %s", unreadable)
            return
        account, known = settings.account, self.settings.account
        if account != known and account.client_name == known.client_name:
            self.log.info("Connection %r has other secrets now; they are used.", self.plaud_conn_id)
            self._store = await asyncio.to_thread(TokenStore, account)
            self.settings = self.settings._replace(account=account)

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.close()
        await self._quota.aclose()

    async def get_transcription(self, transcription_id: str) -> Transcription:
        """Ask for a transcription; see :meth:`~plaud_provider.hooks.plaud.PlaudHook.get_transcription`."""
        transcription = await self.drive(
            calls.get_transcription(self.settings.account, transcription_id, self.retry_policy)
        )
        metrics.count(metrics.RESULTS, transcription.is_final)
        return transcription

    async def spare_requests(self) -> float:
        """Return how many requests a minute the client's quota has to spare."""
        return await self._quota.spare()

    async def submit_transcription(
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
        on_phase: Callable[[SubmitPhase], Awaitable[None]] | None = None,
    ) -> Transcription:
        """
        Submit a recording, **which is billed**.

        See :meth:`~plaud_provider.hooks.plaud.PlaudHook.submit_transcription`.
        """
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
        from asgiref.sync import sync_to_async

        from plaud_provider.recordings.upload import looked_at, uploaded

        # A storage is asked by blocking calls, its connection through the supervisor; see _open_quota.
        look = sync_to_async(looked_at, thread_sensitive=False)
        source, item = await look(
            account, audio_url, url_validity=url_validity, public_urls=public_urls, upload=upload
        )
        if item is None:
            url = (await asyncio.to_thread(source.url)).reveal()
        else:
            url = await self.drive(uploaded(account, self.retry_policy, item))
        call = calls.submit_transcription(account, self.retry_policy, audio_url=url, terms=terms)
        transcription = await self.drive(call, on_phase=on_phase)
        tell_of_submit(self, audio_url)
        return transcription

    def drive(
        self, call: calls.Call[T], *, on_phase: Callable[[SubmitPhase], Awaitable[None]] | None = None
    ) -> Coroutine[object, object, T]:
        """Perform the effects of a call; see :meth:`~plaud_provider.hooks.plaud.PlaudHook.drive`."""
        shell = AsyncShell(
            self._store,
            self._quota.turn(),
            self.log,
            send=self._transport.send,
            on_phase=on_phase,
        )
        return shell.drive(call)
