"""Everything one emulator remembers."""

from __future__ import annotations

import logging
from datetime import datetime
from threading import RLock
from typing import Any

from plaud_provider.emulator.audio import UNSEEN, Audio, AudioError
from plaud_provider.emulator.clock import Clock
from plaud_provider.emulator.faultbook import FaultBook
from plaud_provider.emulator.fetch import Background, fetch_audio
from plaud_provider.emulator.jobs import Heard, Job, JobBook, Refused
from plaud_provider.emulator.ledger import Ledger, summarise
from plaud_provider.emulator.limits import SlidingLimit
from plaud_provider.emulator.settings import Settings
from plaud_provider.emulator.store import ObjectStore
from plaud_provider.emulator.tokens import TokenBook
from plaud_provider.emulator.transcripts import TranscriptLibrary, placeholder
from plaud_provider.emulator.uploads import UploadBook

logger = logging.getLogger("plaud_provider.emulator")


class EmulatorState:
    """
    The books of one emulator, and the one lock over them.

    Whoever uses several of the books together holds ``lock``; nothing that waits is done while it is held.

    :raises ValueError: if a transcript in the settings' folders is not readable.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lock = RLock()
        self.library = TranscriptLibrary(settings.transcripts)
        self.store = ObjectStore(settings.store, settings.store_key)
        self._downloads = Background()
        # By whatever clock there is at that time.
        self.uploads = UploadBook(lambda: self.clock, max_bytes=settings.fetch_bytes)
        self._start()

    def _start(self) -> None:
        settings = self.settings
        self.clock = Clock(settings.speed)
        self.tokens = TokenBook(
            access_seconds=settings.token_seconds,
            refresh_seconds=settings.refresh_token_seconds,
            keep_used=settings.keep_refresh_tokens,
        )
        self.token_limit = SlidingLimit(settings.token_limit)
        self.request_limit = SlidingLimit(settings.request_limit)
        self.jobs = JobBook(settings, self.clock)
        self.ledger = Ledger()
        self.faults = FaultBook()
        self.uploads.close()

    def reset(self) -> None:
        """Forget tokens, transcriptions, ledger, faults and changes of the clock; the settings stay."""
        with self.lock:
            self._start()

    def close(self) -> None:
        """Let the background threads end, and remove what was uploaded."""
        self._downloads.close()
        self.uploads.close()

    def listen(self, job: Job) -> None:
        """Fetch a transcription's recording in the background."""
        self._downloads.run(lambda: self._listen(job))

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait until no download is under way; return whether that was so within ``timeout`` real seconds."""
        return self._downloads.settle(timeout)

    def advance(self, seconds: float, *, settle: bool = True) -> None:
        """
        Put the clock forward.

        :param seconds: Emulated seconds.
        :param settle: Whether to let the downloads that are under way end first (10 s at most), so that what
            is due by then is complete.
        """
        if settle:
            self.settle()
        with self.lock:
            self.clock.advance(seconds)

    def sign(self, path: str, expires: int, *, at: datetime | None = None) -> str:
        """See :meth:`plaud_provider.emulator.store.ObjectStore.sign`."""
        return self.store.sign(path, expires, at=at)

    def overview(self) -> dict[str, Any]:
        """Return settings, clock, counts and every transcription; no secret and no transcript."""
        with self.lock:
            now = self.clock.now()
            return {
                "config": self.settings.public(),
                "clock": {
                    "time": self.clock.utc(now).isoformat(),
                    "seconds": round(now, 6),
                    "speed": self.clock.speed,
                },
                "tokens_issued": self.tokens.issued,
                "known_transcripts": len(self.library),
                "counts": self.jobs.counts(),
                "audio_seconds": round(self.jobs.heard_seconds(), 3),
                "transcriptions": [self.jobs.view(job) for job in self.jobs],
            }

    def ledger_view(
        self, *, kind: str | None = None, after: int = 0, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return ledger entries as JSON values; see :meth:`plaud_provider.emulator.ledger.Ledger.entries`."""
        with self.lock:
            entries = self.ledger.entries(kind=kind, after=after, limit=limit)
            clock = self.clock
        return [entry.view(clock.utc(entry.emulated_at).isoformat()) for entry in entries]

    def summary(self) -> dict[str, Any]:
        """Return counts over the ledger; see :func:`plaud_provider.emulator.ledger.summarise`."""
        with self.lock:
            entries = self.ledger.entries()
            consumed = sum(ordered.consumed for ordered in self.faults.all())
            transcriptions = self.jobs.counts()
            audio_seconds = round(self.jobs.heard_seconds(), 3)
        return {
            **summarise(entries),
            "faults_consumed": consumed,
            "transcriptions": transcriptions,
            "audio_seconds": audio_seconds,
        }

    def _listen(self, job: Job) -> None:
        outcome: Heard | Refused
        try:
            audio = self._audio(job.audio_url)
            transcript = self.library.find(audio.sha256) or placeholder(audio)
        except AudioError as error:
            outcome = Refused(error.code, error.message, self.clock.now())
            logger.info("%s failed: %s", job.transcription_id, error.code)
        else:
            outcome = Heard(audio, transcript, self.clock.now())
        with self.lock:
            job.outcome = outcome

    def _audio(self, url: str) -> Audio:
        if not self.settings.fetch_audio:
            return UNSEEN
        return fetch_audio(url, seconds=self.settings.fetch_seconds, max_bytes=self.settings.fetch_bytes)
