"""Submit a recording, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from plaud_provider.api.arguments import LAKE_ARGUMENTS, TextArguments, optional, validate_words, warehouse_of
from plaud_provider.api.waiting import SUBMITTED_AT_KEY
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.lineage.moved import Moved, TellsLineage, folders_of
from plaud_provider.operators.chunk import EndsInOrder, come_back, owner_of
from plaud_provider.operators.terms import TermsOperator, rules_of
from plaud_provider.recordings.mapping import HarmlessLabel, UnsignedPartial
from plaud_provider.recordings.reference import AudioReference, wrapped

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.ledger.entry import State
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.submit.single import OnUnknownSubmit

#: Arguments of a task that loads which say where.
_PLACES = ("sql_conn_id", *LAKE_ARGUMENTS)


class SubmitTranscriptionOperator(TellsLineage, EndsInOrder, TextArguments, HarmlessLabel, TermsOperator):
    """
    Submit a recording to Plaud and return the transcription id.

    **What is billed:** each accepted submit, by audio length. Within a DAG run a recording is submitted once:
    the intent and the id are noted in Airflow's task state store (Airflow 3.3) under the recording's
    identity, so a retry, or a user's clear, re-attaches to the earlier submit. With ``ledger_conn_id`` that
    holds over all runs and DAGs. Whatever is wrong with the arguments is found before anything is paid for.

    **What is not known** is never repeated silently. If a submit was sent and its answer lost, or the worker
    died while sending, Plaud may have billed it, and its API has no way to look it up. ``on_unknown_submit``
    says what to do then. Airflow 3.2 has no task state store: there every retry of this task counts as such a
    case.

    .. seealso:: https://docs.plaud.ai (transcription API)

    :param audio_url: An M4A, MP3 or WAV file, whatever its name (templated): a pre-signed ``https://``
        URL, shown and stored without its query; or a storage reference, ``s3://bucket/key``,
        ``gs://bucket/key`` or ``abfs://container/path``, optionally with an Airflow connection
        (``s3://aws_default@bucket/key``),
        which is looked up, and signed right before it is submitted; or a local file (see ``public_urls``).
    :param language: BCP-47 code such as ``en`` (templated); left out, Plaud detects it.
    :param speaker_diarization: Whether Plaud labels speakers (templated).
    :param model: Speech model: ``plaud-fast-whisper``, ``plaud-omni-3`` or ``azure-fast-transcribe``
        (templated); left out, Plaud chooses. This and the next three are options of the API ``embedded``
        only; they are part of the recording's identity.
    :param hotwords: Words that are likely to be said, such as names: a list, or text with commas between
        (templated).
    :param decode_silence: Whether what is taken for silence is transcribed as well (templated).
    :param detection_level: For what the language is detected: ``segment`` or ``chapter`` (templated); left
        out, Plaud chooses.
    :param webhook_url: https URL to which Plaud posts the result (templated).
    :param plaud_conn_id: Connection of type ``plaud`` (templated).
    :param region: What you take the connection's region to be: ``us``, ``eu`` or ``jp`` (templated). If it
        differs, the task fails before any request.
    :param url_validity: How long Plaud has to fetch what is signed here, as a timedelta or seconds: two
        minutes to seven days, by default six hours (templated). Temporary credentials end a URL earlier.
    :param public_urls: From where Plaud can fetch local files: base URL by folder, such as
        ``{"/data/calls/": "https://files.example/calls/"}``, or that as JSON text (templated).
    :param identity_params: Names of the parameters in the query of an ``https://`` URL that tell recordings
        apart, such as ``["id"]``, and no others; ``[]`` for none of them (templated). By default all do but
        those that look like a signature, a secret or an expiry.
    :param recording_id: What you know the recording by, where its links have nothing in common, such as the
        id of an attachment of Airtable's (templated). Whatever is given the same id is the same recording.
    :param on_unknown_submit: ``fail``: fail, without retries, and say what to do. ``resubmit``: send the
        recording again and accept that it may be paid twice (templated).
    :param ledger_conn_id: Connection of the ledger (templated): PostgreSQL, MySQL, SQLite or DuckDB. With
        it a recording is paid for once over all runs and DAGs that share the ledger: what another run has
        submitted is attached to.
    :param resubmit: What the ledger knows as ``failed`` or ``expired`` and is to be submitted, and paid for,
        again (templated).
    :param unreadable: What to do with a stored or local recording whose content cannot be measured, as it is
        damaged, cut off or none: ``refuse`` it, or ``send`` it, so that Plaud decides (templated).
    :param convert: ``mp3``: a stored or local recording that is no MP3 or M4A is converted, and Plaud fetches
        the MP3; ``None``: none is (templated). A URL is not read, and so not converted.
    :param upload: When the recording is uploaded to Plaud's own storage (templated), which the API
        ``embedded`` takes: ``auto``: if Plaud cannot fetch it, as it is a local file that nobody serves, or
        in a storage whose URL cannot be signed or leads into a private network; ``always``: whatever it is,
        but for a URL, which is not read here; ``never``. What is no MP3 or M4A is converted to MP3 on the
        way. With the API ``openapi``, ``always`` is refused, and ``auto`` uploads nothing.
    :param results_path: Folder in which what is converted is kept (templated): in object storage, where it is
        signed, or a local one that ``public_urls`` serves. What was uploaded is remembered there as well, and
        without it on the worker's host.
    :return: The transcription id. The XCom ``plaud_submitted_at`` says when it was submitted, where that is
        known: epoch seconds by transcription id.
    :raises PlaudInputError: for an argument that Plaud could not use; nothing is paid for.
    :raises PlaudConfigurationError: if a connection, its rights or an extra is missing; nothing is paid for.
    :raises PlaudStorageError: if the storage could not be asked; nothing is paid for.
    :raises PlaudSubmitOutcomeUnknownError: if the recording may have been accepted.
    """

    template_fields: Sequence[str] = (
        "audio_url",
        *TermsOperator.template_fields,
        "webhook_url",
        "plaud_conn_id",
        "region",
        "url_validity",
        "public_urls",
        "identity_params",
        "recording_id",
        "on_unknown_submit",
        "ledger_conn_id",
        "resubmit",
        "unreadable",
        "convert",
        "upload",
        "results_path",
    )
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        audio_url: str,
        webhook_url: str | None = None,
        plaud_conn_id: str = "plaud_default",
        region: str | None = None,
        url_validity: timedelta | float = timedelta(hours=6),
        public_urls: Mapping[str, str] | None = None,
        identity_params: Sequence[str] | None = None,
        recording_id: str | None = None,
        on_unknown_submit: OnUnknownSubmit = "fail",
        ledger_conn_id: str | None = None,
        resubmit: Sequence[str] = (),
        unreadable: str = "refuse",
        convert: str | None = None,
        upload: str = "auto",
        results_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.audio_url = audio_url
        self.webhook_url = webhook_url
        self.plaud_conn_id = plaud_conn_id
        self.region = region
        self.url_validity = url_validity
        self.public_urls = public_urls
        self.identity_params = identity_params
        self.recording_id = recording_id
        self.on_unknown_submit = on_unknown_submit
        self.ledger_conn_id = ledger_conn_id
        self.resubmit = resubmit
        self.unreadable = unreadable
        self.convert = convert
        self.upload = upload
        self.results_path = results_path

    def _convert_audio_url(self, value: Any) -> Any:
        """Wrap a URL as it is assigned, so that rendered fields show it unsigned; Airflow calls this."""
        return wrapped(value)

    @classmethod
    def partial(cls, **kwargs: Any) -> UnsignedPartial:
        """Return what is mapped with ``expand()``, whose signatures are not stored either."""
        return UnsignedPartial(super().partial(**kwargs), "audio_url")

    def pre_execute(self, context: Any) -> None:
        """Leave out a setting with which Airflow would fail the task once it has paid."""
        super().pre_execute(context)
        if self.multiple_outputs:
            self.log.warning("multiple_outputs is left out: this task returns one value, the id.")
            self.multiple_outputs = False

    def execute(self, context: Context) -> str:
        """Re-attach to an earlier submit of this recording in this run, else submit it."""
        from plaud_provider.hooks.connection import PlaudConnection
        from plaud_provider.hooks.plaud import PlaudHook
        from plaud_provider.submit.plan import Plan
        from plaud_provider.submit.single import HeldError, SingleSubmit
        from plaud_provider.submit.stop import Stop

        policy, audio = self._checked_policy(), self._checked_audio()
        terms = self._terms(self.webhook_url)
        rules = rules_of(self, self._resubmittable(), recording_id=self.recording_id)
        settings = PlaudConnection(self.plaud_conn_id, self.region).settings
        self._refuse_unserved_warehouses(context)
        terms = terms._replace(webhook_url=settings.webhook_url(terms.webhook_url))
        plan = Plan(settings.account, terms, rules)
        source = plan.source(audio)
        stop = self._stop = Stop()
        with PlaudHook(self.plaud_conn_id, settings=settings) as hook:
            single = SingleSubmit(
                source,
                plan,
                hook,
                context,
                owner_of(context),
                open_ledger=self._ledger_opener(),
                on_unknown=policy,
                resubmit=rules.resubmit,
                stop=stop,
            )
            try:
                transcription_id, submitted_at = stop.run(single.submit)
            except HeldError as held:
                whose, uri = held.entry.owner.in_words, held.entry.audio_uri
                self.log.info("Another task, of %s, is about to submit %s; waiting for it.", whose, uri)
                come_back(self)
        if submitted_at is not None:
            # A sensor behind this task knows then when a result is likely.
            context["ti"].xcom_push(key=SUBMITTED_AT_KEY, value={transcription_id: submitted_at.timestamp()})
        self._moved = Moved(folders_of([audio.uri]), {"submitted": 1}, (transcription_id,))
        return transcription_id

    def resume(self, context: Context, event: Any = None) -> str:
        """Go on after a wait for another task that was about to submit the same recording."""
        return self.execute(context)

    def _refuse_unserved_warehouses(self, context: Context) -> None:
        """Refuse to pay for what a task behind this one could not load, where that can be known now."""
        if not self.has_dag():  # type: ignore[no-untyped-call]
            return
        from plaud_provider.warehouse.lake import checked_lake
        from plaud_provider.warehouse.loaders.choice import refuse_unserved

        for task in self.get_flat_relatives(upstream=False):
            if (given := _given_to_loader(task)) is None:
                continue
            try:
                conn_id, *lake = (self.render_template(given.get(name), context) for name in _PLACES)
            except Exception as error:
                # It may be of use only when that task runs.
                self.log.debug("Where %s loads is not known yet (%s).", task.task_id, type(error).__name__)
                continue
            checked_lake(*lake)
            if (conn_id := optional(conn_id)) is not None:
                refuse_unserved(str(conn_id))

    def _ledger_opener(self) -> Callable[[], Ledger] | None:
        if self.ledger_conn_id is None:
            return None
        from plaud_provider.ledger.ledger import open_ledger

        return partial(open_ledger, self.ledger_conn_id)

    def _resubmittable(self) -> list[State]:
        from plaud_provider.ledger.entry import State

        words = validate_words("resubmit", self.resubmit, (State.FAILED, State.EXPIRED))
        return [State(word) for word in words]

    def _checked_audio(self) -> AudioReference:
        audio: object = self.audio_url
        if isinstance(audio, list) and len(audio) == 1:
            [audio] = audio
        if isinstance(audio, str):
            audio = AudioReference(audio)
        if isinstance(audio, AudioReference):
            if audio.reveal():
                return audio
            audio = None
        if audio is None or audio == []:
            raise PlaudInputError(
                "audio_url: it is empty. Pass a pre-signed https:// URL of the recording, a storage "
                "reference or a path. Nothing was sent, nothing is paid for."
            )
        raise PlaudInputError(
            f"audio_url: takes one recording, not a {type(audio).__name__}. For several, use "
            ".partial(...).expand(audio_url=[...]). Nothing was sent."
        )

    def _checked_policy(self) -> OnUnknownSubmit:
        policy = self.on_unknown_submit
        if policy in ("fail", "resubmit"):
            return policy
        raise PlaudInputError(
            f"on_unknown_submit: {policy!r} is not 'fail' or 'resubmit'. Nothing was sent, nothing is paid "
            "for."
        )


def _given_to_loader(task: Any) -> Mapping[str, Any] | None:
    """Return the arguments of a task that loads, mapped or not; ``None`` of any other task."""
    from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator

    if isinstance(task, TranscriptionToSqlOperator):
        return vars(task)
    kind = getattr(task, "operator_class", None)
    if not isinstance(kind, type) or not issubclass(kind, TranscriptionToSqlOperator):
        return None
    # A mapped task takes default_args only when it runs.
    defaults = {**task.get_dag().default_args, **(task.task_group.default_args if task.task_group else {})}
    given = {name: task.partial_kwargs.get(name, defaults.get(name)) for name in _PLACES}
    expanded = getattr(task.expand_input, "value", None)
    if not isinstance(expanded, dict) or not expanded.keys().isdisjoint(_PLACES):
        # Where each of them loads is known when it runs.
        return None
    return {**given, "sql_conn_id": warehouse_of(given["sql_conn_id"], given["lake_path"])}
