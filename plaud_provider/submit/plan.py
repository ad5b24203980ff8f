"""From references to recordings that may be submitted: looked at, keyed, examined, claimed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from plaud_provider.api.limits import longest_recording
from plaud_provider.exceptions import PlaudConfigurationError, PlaudError, PlaudInputError
from plaud_provider.ledger.entry import Owner, Recording, State
from plaud_provider.recordings.convert import KEPT, Convert
from plaud_provider.recordings.examine import Unreadable, examine
from plaud_provider.recordings.identity import recording_key
from plaud_provider.recordings.local_files import is_served
from plaud_provider.recordings.reference import AudioReference, refused
from plaud_provider.recordings.sources import audio_source
from plaud_provider.recordings.upload import Upload, UploadMode, check_uploadable, mode_of
from plaud_provider.recordings.upload_memory import UploadMemory
from plaud_provider.storage.bucket import FileSystems
from plaud_provider.submit.course import Order

if TYPE_CHECKING:
    from plaud_provider.api.account import Account
    from plaud_provider.api.terms import Terms
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.recordings.audio import Measured
    from plaud_provider.recordings.listing import Found
    from plaud_provider.recordings.sources import AudioSource
    from plaud_provider.storage.folder import LocalFolder, StoredFolder

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: Recordings whose files are read at once.
READERS = 8
#: How often a recording that is replaced while it waits for its turn is looked at anew.
ROUNDS = 3


class Rules(NamedTuple):
    """
    What may be submitted.

    :param url_validity: How long Plaud has to fetch what is signed.
    :param public_urls: From where Plaud can fetch local files.
    :param resubmit: States that a recording is submitted again from.
    :param max_audio_hours: Audio hours that the run may submit; ``None`` for no limit.
    :param max_recording_hours: Longer recordings are refused; ``None``: by what Plaud documents.
    :param target: Where transcripts are to be landed, as the ledger says it.
    :param identity_params: Which parameters of a URL's query tell recordings apart; ``None``: whatever does
        not look like a signature, a secret or an expiry.
    :param recording_id: What the user knows the one recording by; ``None``: its reference.
    :param unreadable: What to do with recordings that cannot be measured.
    :param convert: To what recordings are converted that Plaud does not take; ``None``: they are not.
    :param results_path: Where what is converted is kept, and what was uploaded remembered.
    :param upload: When recordings are uploaded to Plaud's storage.
    """

    url_validity: timedelta
    public_urls: Mapping[str, str]
    resubmit: Collection[State]
    max_audio_hours: float | None = None
    max_recording_hours: float | None = None
    target: str | None = None
    identity_params: Collection[str] | None = None
    recording_id: str | None = None
    unreadable: Unreadable = "refuse"
    convert: Convert | None = None
    results_path: str | None = None
    upload: UploadMode = "auto"


class Candidate(NamedTuple):
    """
    A recording that is listed, with whatever keeps it from being submitted.

    :param audio: Reference to it.
    :param key: Its identity.
    :param version: Version of its content.
    :param source: Where it is; ``None`` if Plaud could never fetch it from there.
    :param found: What it is, once it was read.
    :param duration_seconds: Its length, once it was read, perhaps estimated.
    :param problem: Why it cannot be submitted now, or ever.
    """

    audio: AudioReference
    key: str
    version: str | None
    source: AudioSource | None
    duration_seconds: float | None = None
    found: Measured | None = None
    problem: PlaudError | None = None

    @property
    def is_refused(self) -> bool:
        """Whether it cannot be submitted as it is: it becomes a row with its reason, and is not retried."""
        # Where others of the same storage can be read, a right that is missing is missing for this one.
        return isinstance(self.problem, (PlaudInputError, PlaudConfigurationError))

    @property
    def is_identified(self) -> bool:
        """Whether its key is that of its content; else a row would be one that nobody comes back to."""
        return self.source is not None or self.is_refused


class Plan:
    """
    What a client would submit, and how; nothing is sent.

    :param account: The client that pays.
    :param terms: How recordings are to be transcribed.
    :param rules: What may be submitted.
    :raises PlaudInputError: if the client's API lacks an option.
    """

    def __init__(self, account: Account, terms: Terms, rules: Rules) -> None:
        account.dialect.check(terms)
        self.account = account
        self.terms = terms
        self._rules = rules
        # Each connection to a storage is opened once, not once for each recording.
        self._file_systems = FileSystems()
        self._upload = mode_of(account, rules.upload)
        self._memory = UploadMemory(account, rules.results_path) if self._upload != "never" else None
        self._converted = _folder_of_converted(rules, self._upload)

    def key(self, audio: AudioReference, version: str | None) -> str:
        """Return the identity of a recording as this client submits it in these terms."""
        return recording_key(
            audio,
            version=version,
            language=self.terms.language,
            speaker_diarization=self.terms.speaker_diarization,
            region=self.account.region.value,
            client_id=self.account.client_id,
            identity_params=self._rules.identity_params,
            recording_id=self._rules.recording_id,
            options=self.terms.identity,
        )

    def is_told_by_its_uri(self, audio: AudioReference) -> bool:
        """Whether what is stored of a reference tells its recording from others."""
        return audio.uri == (
            audio.reveal() if audio.is_local else audio.identified_by(self._rules.identity_params)
        )

    def source(self, audio: AudioReference) -> AudioSource:
        """
        Return where a recording is.

        :raises PlaudInputError: if Plaud could not fetch or transcribe it.
        """
        source = audio_source(
            audio,
            url_validity=self._rules.url_validity,
            public_urls=self._rules.public_urls,
            file_systems=self._file_systems,
            is_uploadable=self._upload != "never",
        )
        check_uploadable(source, self._upload)
        return source

    def identified(self, listed: Sequence[Found]) -> list[Candidate]:
        """
        Return listed recordings with their identities.

        :param listed: What the listing has found.
        :raises PlaudInputError: if it is the argument that is wrong, not a recording.
        """
        unserved = [
            audio
            for audio in (found.audio for found in listed)
            if self._upload == "never" and not is_served(audio, self._rules.public_urls)
        ]
        if unserved and len(unserved) == len(listed):
            # It raises what is wrong with public_urls.
            self.source(unserved[0])
        return _at_once(self._identified, listed)

    def _identified(self, found: Found) -> Candidate:
        audio = found.audio
        if "\x00" in found.uri:
            # Nothing can be asked for by such a name; a row has to have one.
            audio = AudioReference(found.uri.replace("\x00", "\ufffd"))
            problem: PlaudError = refused(audio, "has a NUL character in its name; rename it")
            return Candidate(audio, self.key(audio, found.version), found.version, None, problem=problem)
        try:
            source = self.source(audio)
            # Listing does not read local files, whose version is their content.
            version = found.version if found.version is not None else source.look()
        except PlaudError as problem:
            return Candidate(audio, self.key(audio, found.version), found.version, None, problem=problem)
        return Candidate(audio, self.key(audio, version), version, source)

    def examined(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """
        Look at recordings that are to be submitted, and return them as they are now.

        One that was replaced since it was listed has another version then, and another key.

        :param candidates: The recordings.
        :raises PlaudConfigurationError: if it is the storage or its connection that is wrong.
        """
        for candidate in candidates:
            if candidate.source is not None:
                candidate.source.connect()
        found = _at_once(self._examined, candidates)
        if len(found) > 1 and all(isinstance(one.problem, PlaudConfigurationError) for one in found):
            raise found[0].problem or AssertionError
        return found

    def _examined(self, candidate: Candidate) -> Candidate:
        source = candidate.source
        if source is None:
            return candidate
        try:
            version = source.look()
            candidate = candidate._replace(version=version, key=self.key(candidate.audio, version))
            if not source.is_readable:
                # A URL was signed for Plaud.
                return candidate._replace(problem=None)
            found = self.examine(source)
        except PlaudError as problem:
            return candidate._replace(problem=problem)
        return candidate._replace(duration_seconds=found.seconds, found=found, problem=None)

    def examine(self, source: AudioSource) -> Measured:
        """
        Find out what a recording is.

        :raises PlaudError: if it is not to be submitted, or cannot be read.
        """
        max_hours = self._rules.max_recording_hours
        if max_hours is None:
            max_hours = longest_recording(speaker_diarization=self.terms.speaker_diarization)
        return examine(
            source,
            max_hours=max_hours,
            unreadable=self._rules.unreadable,
            is_converted=self._rules.convert is not None or self._upload == "always",
        )

    def recording(self, candidate: Candidate) -> Recording:
        """Return a recording as the ledger has it."""
        return Recording(
            recording_key=candidate.key,
            audio_uri=candidate.audio.uri,
            region=self.account.region.value,
            client_id=self.account.client_id,
            language=self.terms.language,
            speaker_diarization=self.terms.speaker_diarization,
            model=self.terms.model,
            duration_seconds=candidate.duration_seconds,
            target=self._rules.target,
        )

    def order(self, candidate: Candidate) -> Order:
        """Return what is to be sent for a recording."""
        assert candidate.source is not None  # noqa: S101
        source, found = candidate.source, candidate.found
        if found is None:
            return Order(source, candidate.version, self.terms)
        upload = (
            None if self._memory is None else Upload(candidate.source, candidate.version, found, self._memory)
        )
        is_converted = self._rules.convert is not None and found.format not in KEPT
        is_uploaded_anyway = self._upload == "always" or (is_converted and self._converted is None)
        if is_converted and self._converted is not None:
            from plaud_provider.recordings.converted import ConvertedRecording

            source = ConvertedRecording(
                source,
                self._converted,
                candidate.key,
                found,
                url_validity=self._rules.url_validity,
                public_urls=self._rules.public_urls,
            )
        return Order(
            source, candidate.version, self.terms, upload, is_uploaded_anyway, candidate.duration_seconds
        )


def _folder_of_converted(rules: Rules, upload: UploadMode) -> LocalFolder | StoredFolder | None:
    """Return where Plaud fetches what is converted; ``None`` if nothing is, or if it is uploaded."""
    if rules.convert is None or upload == "always":
        return None
    from plaud_provider.recordings.converted import check_served, converted_folder

    if rules.results_path is None:
        if upload == "auto":
            return None
        raise PlaudInputError(
            "results_path: it is empty, and convert='mp3' keeps there what Plaud is to fetch. Name a folder. "
            "Nothing was sent, nothing is paid for."
        )
    folder = converted_folder(rules.results_path)
    if upload == "auto" and not is_served(AudioReference(folder.root), rules.public_urls):
        return None
    check_served(folder, rules.public_urls)
    return folder


def claim(
    plan: Plan, candidates: Iterable[Candidate], ledger: Ledger, owner: Owner, rules: Rules
) -> tuple[list[Candidate], int]:
    """
    Claim recordings.

    :return: Those that nobody was faster to claim; and how many were left, as the run would go beyond its
        audio hours.
    """
    by_key = {candidate.key: candidate for candidate in candidates}
    entries = ledger.claim(
        [plan.recording(one) for one in by_key.values()],
        owner,
        resubmit=rules.resubmit,
        max_hours=rules.max_audio_hours,
    )
    mine = [one for key, one in by_key.items() if key in entries and entries[key].is_claimed_by(owner)]
    return mine, len(by_key) - len(entries)


def _at_once(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(work, items))
