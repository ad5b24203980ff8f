"""What every loader does, whatever the warehouse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables


class Landed(NamedTuple):
    """
    How many rows were written.

    :param transcripts: Rows of transcriptions.
    :param segments: Rows of segments.
    :param nuls_replaced: NUL characters that the warehouse cannot store and that became U+FFFD.
    """

    transcripts: int
    segments: int
    nuls_replaced: int = 0


class Stored(NamedTuple):
    """
    A transcription that is in the tables; its fields are columns of the table of transcripts.

    :param transcription_id: Its id.
    :param region: Plaud region.
    :param audio_uri: Reference to its recording, where that is known.
    :param segment_count: How many segments it has.
    :param submitted_at: When it was submitted, where that is known.
    :param completed_at: When Plaud completed it, where that is known.
    :param landed_at: When it was landed last.
    """

    transcription_id: str
    region: str
    audio_uri: str | None
    segment_count: int
    submitted_at: datetime | None
    completed_at: datetime | None
    landed_at: datetime


class Removed(NamedTuple):
    """
    How many rows were removed.

    :param transcripts: Rows of transcriptions.
    :param segments: Rows of segments.
    """

    transcripts: int
    segments: int


class Loader(ABC):
    """
    Puts rows into the two tables of one warehouse.

    Whatever goes wrong while it does, a crash included, readers find of each transcription the rows from
    before or the new ones: never both, never half. It keeps nothing between calls that has to be closed.
    """

    @property
    @abstractmethod
    def conn_id(self) -> str:
        """Airflow connection of the warehouse."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """Kind of warehouse, for messages."""

    _tables: PlaudTables

    @property
    def target(self) -> str:
        """What the ledger calls this place."""
        return self._tables.target(self.conn_id)

    @abstractmethod
    def ensure(self, *, is_checked: bool = False) -> None:
        """
        Create the tables if they are not there, and check those that are.

        Safe when several tasks do it at once.

        :param is_checked: Whether a task before has done so: less needs to be asked then.
        :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
        :raises PlaudWarehouseError: if the warehouse cannot be reached, or does not let us.
        :raises PlaudConfigurationError: if no table of this warehouse would do.
        :raises PlaudInputError: if a name cannot be one there.
        """

    @abstractmethod
    def landed(self, ids: Sequence[str]) -> set[str]:
        """
        Return those of transcriptions that are completed and whose rows readers find.

        :param ids: Their ids, in order, no id twice.
        :raises PlaudWarehouseError: if the warehouse cannot be asked.
        """

    @abstractmethod
    def load(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """
        Replace all rows of these transcriptions; doing it again changes nothing but when and by whom.

        :param landings: Transcriptions, no id twice, in the order of their ids.
        :param ledger: A ledger in this very database, if there is one: it is asked and told in the same
            transaction.
        :raises PlaudWarehouseError: if the old rows are still what readers find; in words that quote no row.
        """

    @abstractmethod
    def read(
        self, columns: Sequence[str], where: Mapping[str, Sequence[str]], most: int | None = None
    ) -> list[Sequence[Any]]:
        """
        Return columns of the transcripts that readers find, what was landed first first.

        :param columns: Names of columns of the table of transcripts.
        :param where: By the name of a column, the values of which it has to have one; a thousand at most.
        :param most: Not more than so many.
        :raises PlaudWarehouseError: if the warehouse cannot be asked.
        """

    @abstractmethod
    def stored(self, is_wanted: Callable[[Stored], bool]) -> list[Stored]:
        """
        Return what is in the tables and wanted, in no order. All rows are looked at, without their texts.

        :param is_wanted: Whether one is wanted.
        :raises PlaudWarehouseError: if the warehouse cannot be asked.
        """

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> Removed:
        """
        Remove all rows of transcriptions, also those that no reader finds; doing it again changes nothing.

        :param ids: Their ids, in order, no id twice.
        :return: How many rows of those that readers find were removed.
        :raises PlaudWarehouseError: if they were not removed.
        """

    def take_back(self, ids: Sequence[str]) -> None:
        """
        Remove what was landed to try the warehouse out; earlier versions of the tables stay as they are.

        :param ids: Transcriptions that there are not.
        :raises PlaudWarehouseError: if it was not removed.
        """
        self.remove(ids)
