"""What a task has moved, as it notes it while it runs; of no use without OpenLineage, and free then."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk import Asset

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

#: Ids of transcriptions in one event: more would make it too large for backends.
MOST_IDS = 1000


class Moved(NamedTuple):
    """
    What a task has moved, in references, ids and numbers.

    :param folders: Folders or sites that recordings lie in.
    :param counts: What became of the recordings, in numbers.
    :param ids: Ids of their transcriptions.
    :param audio_seconds: How long they are together, where that is known.
    :param target: The tables that rows went to; ``None`` for a task that writes none.
    :param transcripts: Rows of transcriptions that the task has written.
    :param segments: Rows of segments likewise.
    """

    folders: tuple[str, ...]
    counts: Mapping[str, float]
    ids: tuple[str, ...] = ()
    audio_seconds: float = 0.0
    target: Target | None = None
    transcripts: int = 0
    segments: int = 0


class Target(NamedTuple):
    """
    The tables of a warehouse.

    :param conn_id: Airflow connection of the warehouse.
    :param schema: Schema of both; ``None`` for the connection's own.
    :param transcripts_table: Table for transcriptions.
    :param segments_table: Table for segments.
    """

    conn_id: str
    schema: str | None
    transcripts_table: str
    segments_table: str


class TellsLineage:
    """An operator that OpenLineage's provider asks, once it is done, what it has moved."""

    _moved: Moved | None = None

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """
        Return datasets and facets; Airflow's OpenLineage provider calls this, also if the task has failed.

        :param task_instance: The task instance.
        """
        from plaud_provider.lineage.openlineage import lineage_of

        return lineage_of(self._moved)


def tell_outlets(outlets: Iterable[object], context: Context, counts: Mapping[str, float]) -> None:
    """
    Give counts to each Asset that a task updates, as ``extra`` of its event.

    :param outlets: What the task updates.
    :param context: Of the task.
    :param counts: What has become of its recordings.
    """
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(counts)


def folders_of(references: Iterable[str | None]) -> tuple[str, ...]:
    """
    Return the folders that recordings lie in, each once: of some that lie within each other the outer one.

    :param references: References to recordings, without signatures.
    """
    folders: list[str] = []
    for folder in sorted({one.rpartition("/")[0] + "/" for one in references if one and "/" in one}):
        if not any(folder.startswith(outer) for outer in folders):
            folders.append(folder)
    return tuple(folders)


def some_ids(ids: Collection[str]) -> tuple[str, ...]:
    """Return ids as an event has them: sorted, and not too many."""
    return tuple(sorted(ids)[:MOST_IDS])
