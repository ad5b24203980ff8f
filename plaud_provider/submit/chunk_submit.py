"""From the manifest of a chunk to recordings that are submitted, each once over all runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
    PlaudWarehouseError,
)
from plaud_provider.handover.manifest import Keyed, read_manifest, write_keys
from plaud_provider.ledger.entry import Owner, Recording, State
from plaud_provider.ledger.standing import Standing
from plaud_provider.recordings.header import examine
from plaud_provider.recordings.identity import recording_key
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.signing import AudioSource, audio_source, look_at
from plaud_provider.storage.bucket import FileSystems
from plaud_provider.storage.errors import refused
from plaud_provider.submit.batch import BatchSubmit, Order, Terms

if TYPE_CHECKING:
    from plaud_provider.handover.manifest import Found
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.ledger.ledger import Ledger

log = logging.getLogger(__name__)

#: Recordings whose files are read at once.
READERS = 8


class Rules(NamedTuple):
    """
    What may be submitted.

    :param url_validity: How long Plaud has to fetch what is signed.
    :param public_urls: From where Plaud can fetch local files.
    :param resubmit: States that a recording is submitted again from.
    :param max_audio_hours: Audio hours that the run may submit; ``None`` for no limit.
    :param max_recording_hours: Longer recordings are refused.
    """

    url_validity: timedelta
    public_urls: Mapping[str, str]
    resubmit: Sequence[State]
    max_audio_hours: float | None
    max_recording_hours: float


class _Recording(NamedTuple):
    """
    A recording of the chunk, with whatever keeps it from being submitted.

    :param source: Where it is; ``None`` if Plaud could never fetch it from there.
    :param is_identified: Whether its version could be asked for, and so its key is known.
    """

    audio: AudioReference
    key: str
    source: AudioSource | None
    is_identified: bool = True
    duration_seconds: float | None = None
    problem: PlaudError | None = None


class ChunkSubmit:
    """
    The submit of one chunk by one task.

    :param manifest: Path of the chunk's file.
    :param plaud: Connection of the client that pays.
    :param ledger: The ledger.
    :param owner: Who submits.
    :param terms: How recordings are to be transcribed.
    :param rules: What may be submitted.
    """

    def __init__(
        self,
        manifest: str,
        plaud: PlaudConnection,
        ledger: Ledger,
        owner: Owner,
        terms: Terms,
        rules: Rules,
    ) -> None:
        self._manifest = manifest
        self._plaud = plaud
        self._ledger = ledger
        self._owner = owner
        self._terms = terms
        self._rules = rules
        self._new: list[_Recording] = []

    def plan(self) -> dict[str, Any]:
        """Find out what is to be submitted, say so, and return it in numbers."""
        recordings = self._recordings
        keyed = [Keyed(key=recording.key, uri=recording.audio.uri) for recording in recordings.values()]
        write_keys(self._manifest, keyed)
        standing = self._standing()
        self._new = self._examined([recordings[key] for key in standing.open])
        return _plan(len(recordings), standing, self._new)

    def held(self) -> int:
        """Return how many recordings another task is about to submit."""
        return len(self._standing().held)

    def submit(self) -> int:
        """
        Submit what :meth:`plan` found to be new; return how many Plaud has accepted.

        :raises PlaudStorageError: if some recordings could not be read; all others were submitted.
        :raises PlaudError: its other classes, if going on would be useless.
        """
        # One whose identity could not be asked for would leave a row that nobody comes back to.
        mine = self._claim([recording for recording in self._new if recording.is_identified])
        unreadable = [
            recording.problem
            for recording in self._new
            if recording.problem is not None and not recording.is_identified
        ]
        unreadable += self._sort_out(mine)
        ready = self._within_budget([recording for recording in mine if recording.problem is None])
        batch = BatchSubmit(self._ledger, self._owner, self._terms)
        orders = [Order(recording.key, recording.source) for recording in ready if recording.source]
        if orders:
            try:
                batch.run(orders, self._plaud)
            except PlaudWarehouseError:
                # There is no ledger to tell; a retry of this task has its claims at once.
                raise
            except PlaudError as error:
                self._ledger.release(self._owner, str(error))
                raise
        unreadable += batch.unreadable
        if unreadable:
            raise PlaudStorageError(
                f"{len(unreadable)} of {len(self._recordings)} recordings could not be read, such as: "
                f"{unreadable[0]} All others are submitted; a retry takes up the rest."
            )
        return batch.submitted

    def _standing(self) -> Standing:
        keys = list(self._recordings)
        now = datetime.now(tz=UTC)
        return Standing.of(
            keys,
            self._ledger.entries(keys),
            is_open=lambda entry: entry.may_be_claimed_by(
                self._owner, resubmit=self._rules.resubmit, now=now
            ),
        )

    @cached_property
    def _recordings(self) -> dict[str, _Recording]:
        """The chunk's recordings by key, in the manifest's order."""
        # Each connection to a storage is opened once, not once for each recording.
        file_systems = FileSystems()
        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(partial(self._identified, file_systems), read_manifest(self._manifest))
            return {recording.key: recording for recording in found}

    def _identified(self, file_systems: FileSystems, found: Found) -> _Recording:
        audio = AudioReference(found.uri)
        if "\x00" in found.uri:
            # Nothing can be asked for by such a name; a row has to have one.
            shown = AudioReference(found.uri.replace("\x00", "\ufffd"))
            problem: PlaudInputError = refused(shown, "has a NUL character in its name; rename it")
            return _Recording(shown, self._key(shown, found.version), None, problem=problem)
        try:
            source = audio_source(
                audio,
                url_validity=self._rules.url_validity,
                public_urls=self._rules.public_urls,
                file_systems=file_systems,
            )
        except PlaudInputError as refusal:
            return _Recording(audio, self._key(audio, found.version), None, problem=refusal)
        if found.version is not None:
            return _Recording(audio, self._key(audio, found.version), source)
        # Listing does not read local files, whose version is their content.
        sighting = look_at(source)
        return _Recording(
            audio,
            self._key(audio, sighting.version),
            source,
            is_identified=sighting.problem is None or isinstance(sighting.problem, PlaudInputError),
            problem=sighting.problem,
        )

    def _key(self, audio: AudioReference, version: str | None) -> str:
        return recording_key(
            audio,
            version=version,
            language=self._terms.language,
            speaker_diarization=self._terms.speaker_diarization,
            region=self._plaud.region,
            client_id=self._plaud.client_id,
        )

    def _examined(self, recordings: Sequence[_Recording]) -> list[_Recording]:
        """Return them with their durations, or with what keeps them from being submitted."""
        everything = self._recordings.values()
        if everything and all(recording.source is None for recording in everything):
            # An argument is wrong, not every single recording.
            raise next(recording.problem for recording in everything if recording.problem is not None)

        def examined(recording: _Recording) -> _Recording:
            if recording.source is None or recording.problem is not None:
                return recording
            try:
                header = examine(recording.source, max_hours=self._rules.max_recording_hours)
            except PlaudError as problem:
                return recording._replace(problem=problem)
            return recording._replace(duration_seconds=header.duration_seconds)

        with ThreadPoolExecutor(READERS) as readers:
            found = list(readers.map(examined, recordings))
        if found and all(isinstance(recording.problem, PlaudConfigurationError) for recording in found):
            # Not the recordings' fault, then.
            raise found[0].problem or AssertionError
        return found

    def _claim(self, recordings: Sequence[_Recording]) -> list[_Recording]:
        """Claim recordings; return those that nobody was faster to claim."""
        entries = self._ledger.claim(
            [
                Recording(
                    recording_key=recording.key,
                    audio_uri=recording.audio.uri,
                    region=self._plaud.region,
                    client_id=self._plaud.client_id,
                    language=self._terms.language,
                    speaker_diarization=self._terms.speaker_diarization,
                    duration_seconds=recording.duration_seconds,
                )
                for recording in recordings
            ],
            self._owner,
            resubmit=self._rules.resubmit,
        )
        return [recording for recording in recordings if entries[recording.key].is_claimed_by(self._owner)]

    def _sort_out(self, recordings: Sequence[_Recording]) -> list[PlaudError]:
        """Write down what is refused; return what may be mended by a retry."""
        passing = []
        for recording in recordings:
            # Of a single recording, a missing right is its own: it is archived, or encrypted.
            if isinstance(recording.problem, (PlaudInputError, PlaudConfigurationError)):
                log.warning("%s", recording.problem)
                self._ledger.refused(recording.key, self._owner, str(recording.problem))
            elif recording.problem is not None:
                log.warning("%s", recording.problem)
                self._ledger.release(self._owner, str(recording.problem), keys=[recording.key])
                passing.append(recording.problem)
        return passing

    def _within_budget(self, recordings: list[_Recording]) -> list[_Recording]:
        """Give up the last ones that would take the run over its budget of audio hours."""
        max_hours = self._rules.max_audio_hours
        if max_hours is None:
            return recordings
        excess = self._ledger.audio_hours(self._owner.dag_id, self._owner.run_id) - max_hours
        given_up = []
        while excess > 0 and recordings:
            recording = recordings.pop()
            given_up.append(recording.key)
            excess -= (recording.duration_seconds or 0.0) / 3600
        if given_up:
            reason = (
                f"max_audio_hours: this run may submit {max_hours:g} audio hours, and this recording would "
                "go beyond. Nothing was sent. Raise it, or leave the rest to another run."
            )
            log.warning("%d recordings are not submitted: %s", len(given_up), reason)
            self._ledger.release(self._owner, reason, keys=given_up)
        return recordings


def _plan(total: int, standing: Standing, examined: Sequence[_Recording]) -> dict[str, Any]:
    """Say what is going to be done, and return it in numbers."""
    new = [recording for recording in examined if recording.problem is None]
    refused = len(examined) - len(new)
    hours = sum(recording.duration_seconds or 0.0 for recording in new) / 3600
    waiting = len(standing.waiting) + len(standing.held)
    parts = [
        f"{len(standing.landed)} landed before",
        f"{waiting} waiting",
        f"{len(new)} new, about {hours:.1f} audio hours",
    ]
    rest = {
        "that cannot be submitted": refused,
        "failed before": len(standing.failed),
        "of unknown outcome": len(standing.unknown),
        "expired": len(standing.expired),
    }
    parts += [f"{count} {what}" for what, count in rest.items() if count]
    log.info("%d recordings: %s.", total, ", ".join(parts))
    return {
        "total": total,
        "landed_before": len(standing.landed),
        "waiting": waiting,
        "new": len(new),
        "refused": refused,
        "failed_before": len(standing.failed),
        "unknown_before": len(standing.unknown),
        "expired_before": len(standing.expired),
        "audio_hours": round(hours, 4),
    }
