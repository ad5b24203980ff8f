"""Remove the text of transcriptions for good, wherever this package has put it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from plaud_provider.api.arguments import optional, optional_number, validate_boolean
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.chunk import ArchiveOperator
from plaud_provider.recordings.reference import AudioReference, wrapped

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.transfers.purging import Wanted


class PurgeTranscriptionsOperator(ArchiveOperator):
    """
    Remove transcriptions from the tables, the ledger and ``results_path``, by age, recording or folder.

    Their rows in both tables go, and so do kept answers and converted recordings. The ledger keeps the
    recording's key, its ids, state and times, and forgets what Plaud said: a purged recording is neither paid
    for again nor landed again, by whatever run, also if it is at Plaud still or ``resubmit`` names its state.
    Who wants it transcribed again deletes its row of the ledger by hand.

    What is given has to hold all together, and something has to be given. The recordings themselves stay, as
    do copies that the database, its backups or others have made, and what Plaud keeps: its API has no call to
    delete (docs/privacy.md).

    **A retry, or another run,** removes what came in between and changes nothing else. Nothing is billed and
    Plaud is not asked.

    :param older_than_days: Only what was submitted more than so many days ago; where that is not known,
        completed, else landed (templated).
    :param recordings: Only these (templated): a reference as in ``audio_uri``, or a transcription id, or a
        list of them.
    :param path: Only recordings under this folder (templated), as ``transcribe_archive`` takes it; with or
        without the connection in it.
    :param results_path: Folder in which tasks keep answers until they are landed (templated); left out,
        nothing is removed there.
    :param plan_only: Whether only to say what would be removed (templated).
    :param ledger_conn_id: Connection of the ledger (templated); by default the warehouse.
    :param sql_conn_id: Connection of the warehouse (templated).
    :param schema: Schema of both tables (templated).
    :param transcripts_table: Table for transcriptions (templated).
    :param segments_table: Table for segments (templated).
    :return: ``{"version": 1, "plan_only": …}`` and how many ``recordings`` are forgotten, rows of
        ``transcripts``, ``segments`` and ``ledger``, ``files``; what is left: ``in_progress`` (a task is
        about to submit them) and ``elsewhere`` (landed last in other tables).
    :raises PlaudInputError: if nothing says what to remove, or an argument is wrong; nothing was removed.
    :raises PlaudConfigurationError: if a connection is missing, or the warehouse is one that cannot be
        purged; nothing was removed.
    :raises PlaudError: its other classes, if something was away; a retry goes on.
    """

    template_fields: Sequence[str] = (
        *(name for name in ArchiveOperator.template_fields if name not in ("plaud_conn_id", "region")),
        "older_than_days",
        "recordings",
        "path",
        "results_path",
        "plan_only",
    )
    ui_color = "#fce8e6"
    _comes_after_list = False

    def __init__(
        self,
        *,
        older_than_days: float | str | None = None,
        recordings: Sequence[str] | str | None = None,
        path: str | None = None,
        results_path: str | None = None,
        plan_only: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.older_than_days = older_than_days
        self.recordings = recordings
        self.path = path
        self.results_path = results_path
        self.plan_only = plan_only

    def _convert_recordings(self, value: Any) -> Any:
        """Wrap references when assigned, so that rendered fields show them unsigned; Airflow calls this."""
        return wrapped(value)

    def execute(self, context: Context) -> dict[str, Any]:
        """Remove, and say what."""
        from plaud_provider.transfers.purging import purge

        wanted = self._wanted(datetime.now(tz=UTC))
        is_only_plan = validate_boolean("plan_only", self.plan_only)
        if self.results_path is None:
            self.log.warning("results_path is not given: answers that tasks keep there are not looked for.")
        with self._ledger() as ledger:
            loader = self._writer(ledger).loader
            counts = purge(wanted, loader, ledger, self.results_path, is_only_plan=is_only_plan)._asdict()
        words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
        self.log.info("%s: %s.", "Would remove" if is_only_plan else "Removed", words)
        return {"version": 1, "plan_only": is_only_plan, **counts}

    def _wanted(self, now: datetime) -> Wanted:
        from plaud_provider.transfers.purging import Wanted

        days = optional_number("older_than_days", self.older_than_days, minimum=0)
        named = self._named()
        if days is None and self.path is None and not named:
            raise PlaudInputError(
                "older_than_days, recordings, path: none is given, which would remove everything. Say "
                "what to remove; for everything, older_than_days=0. Nothing was removed."
            )
        return Wanted(
            folder=self.path,
            recordings=named or None,
            before=None if days is None else now - timedelta(days=days),
        )

    def _named(self) -> list[str]:
        """Return the recordings that are named, as tables have them: without a signature."""
        value: Any = self.recordings
        items = [] if value is None else [value] if isinstance(value, (str, AudioReference)) else list(value)
        names = [
            item.uri if isinstance(item, AudioReference) else AudioReference(str(item)).uri for item in items
        ]
        names = [name for name in names if optional(name) is not None]
        if any(name.startswith("[") for name in names):
            raise PlaudInputError(
                "recordings: got a list that a template has turned into text. Pass a list itself, or set "
                "render_template_as_native_obj=True on the DAG. Nothing was removed."
            )
        return names
