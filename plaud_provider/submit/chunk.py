"""From the manifest of a chunk to recordings that are submitted, each once over all runs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plaud_provider.auth.sealing import UrlSeal
from plaud_provider.exceptions import (
    PlaudError,
    PlaudExpiredUrlError,
    PlaudReplacedError,
    PlaudStorageError,
    PlaudWarehouseError,
)
from plaud_provider.handover.manifest import Keyed, read_manifest, write_keys
from plaud_provider.ledger.entry import Entry, State
from plaud_provider.submit.expired import look_again
from plaud_provider.submit.plan import ROUNDS, Candidate, Plan, claim
from plaud_provider.submit.send import Claimed, Sender
from plaud_provider.submit.summary import plan_in_words

if TYPE_CHECKING:
    from plaud_provider.api.terms import Terms
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.ledger.entry import Owner
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.submit.plan import Rules
    from plaud_provider.submit.stop import Stop
    from plaud_provider.submit.summary import Price

log = logging.getLogger(__name__)


class ChunkSubmit:
    """
    The submit of one chunk by one task.

    :param manifest: Path of the chunk's file.
    :param plaud: Connection of the client that pays.
    :param ledger: The ledger.
    :param owner: Who submits.
    :param terms: How recordings are to be transcribed.
    :param rules: What may be submitted.
    :param stop: Says that the task is to end.
    """

    def __init__(
        self,
        manifest: str,
        plaud: PlaudConnection,
        ledger: Ledger,
        owner: Owner,
        terms: Terms,
        rules: Rules,
        stop: Stop,
    ) -> None:
        self._manifest = manifest
        self._stop = stop
        self._plaud = plaud
        self._ledger = ledger
        self._owner = owner
        self._rules = rules
        terms = terms._replace(webhook_url=plaud.settings.webhook_url(terms.webhook_url))
        self._plan = Plan(plaud.settings.account, terms, rules)
        self._uris: dict[str, str] = {}
        self._new: list[Candidate] = []
        #: Keys of what was to be claimed, whoever has got it.
        self._attempted: set[str] = set()
        #: References by the ids that Plaud gave, and how long that is together.
        self.accepted: dict[str, str] = {}
        self.audio_seconds = 0.0

    def plan(self, *, is_only_plan: bool = False, price: Price | None = None) -> dict[str, Any]:
        """
        Find out what is to be submitted, say so, and return it in numbers.

        :param is_only_plan: Whether nothing is going to be submitted: then Plaud is asked for nothing.
        :param price: What an hour of audio costs.
        """
        counts = self._planned(is_only_plan=is_only_plan)
        log.info("%s", plan_in_words(counts, price))
        return counts

    def _planned(self, *, is_only_plan: bool) -> dict[str, Any]:
        seal = UrlSeal(self._plaud.settings.account.secret_key)
        found = read_manifest(self._manifest, unseal=seal.unseal)
        listed = {one.key: one for one in self._plan.identified(found)}
        if not listed:
            # What other runs have left at Plaud: its keys are there, and nothing is to be submitted.
            return _plan(0, [], [])
        self._note_keys(listed.values())
        entries, claimable = self._claimable()
        if not is_only_plan and self._are_known_again(entries.values()):
            entries, claimable = self._claimable()
        new = [listed[key] for key in listed if key in claimable]
        self._new = [] if self._are_hours_spent(len(new)) else self._looked_at(new)
        known = [entry for key, entry in entries.items() if key not in claimable and key in self._uris]
        left = [entry for entry in known if entry.purged_at is None]
        return _plan(len(listed) - (len(known) - len(left)), left, self._new)

    def refusals(self) -> list[str]:
        """Return why recordings that :meth:`plan` has found are refused."""
        return [str(one.problem) for one in self._new if one.is_refused]

    def _are_known_again(self, entries: Collection[Entry]) -> bool:
        if not any(entry.state is State.EXPIRED for entry in entries):
            return False
        # Its libraries take long to import, and this is rare.
        from plaud_provider.hooks.plaud import PlaudHook

        with PlaudHook(self._plaud.plaud_conn_id, settings=self._plaud.settings) as hook:
            return look_again(
                entries,
                self._ledger,
                hook,
                is_paid_again=State.EXPIRED in self._rules.resubmit,
            )

    def held(self) -> int:
        """Return how many recordings another task is about to submit, or was: its claim may have lapsed."""
        entries, claimable = self._claimable()
        return sum(
            entry.state in (State.CLAIMED, State.SUBMITTING)
            for key, entry in entries.items()
            if key not in claimable or key not in self._attempted
        )

    def submit(self) -> int:
        """
        Submit what :meth:`plan` found to be new; return how many Plaud has accepted.

        :raises PlaudStorageError: if some recordings could not be read; all others were submitted.
        :raises PlaudError: its other classes, if going on would be useless.
        """
        accepted, new = 0, self._new
        unreadable: list[PlaudError] = []
        for _ in range(ROUNDS):
            self._stop.check()
            unreadable += [one.problem for one in new if one.problem is not None and not one.is_identified]
            identified = [one for one in new if one.is_identified]
            self._attempted |= {one.key for one in identified}
            mine, beyond = claim(self._plan, identified, self._ledger, self._owner, self._rules)
            self._say_beyond(beyond)
            unreadable += self._settled(mine)
            ready = [one for one in mine if one.problem is None]
            replaced, errors, count = self._sent(ready)
            accepted += count
            unreadable += errors
            if not replaced:
                break
            new = self._looked_at(replaced)
        else:
            unreadable += [PlaudReplacedError(f"{one.audio.uri!r} keeps being replaced.") for one in replaced]
        if unreadable:
            raise PlaudStorageError(
                f"{len(unreadable)} of {len(self._uris)} recordings could not be read or signed, such as: "
                f"{unreadable[0]} All others are submitted; a retry takes up the rest."
            )
        return accepted

    def _sent(self, ready: Sequence[Candidate]) -> tuple[list[Candidate], list[PlaudError], int]:
        """Send what is claimed; return what was replaced, why others are left, and how many are accepted."""
        if not ready:
            return [], [], 0
        sender = Sender(self._ledger, self._owner, self._stop)
        claimed = [Claimed(self._plan.recording(one), self._plan.order(one)) for one in ready]
        try:
            sender.send(claimed, self._plaud)
        except PlaudWarehouseError:
            # There is no ledger to tell; a retry of this task has its claims at once.
            raise
        except BaseException as error:
            # Also execution_timeout, which is not told to anybody.
            self._ledger.release(self._owner, str(error) or type(error).__name__)
            raise
        outcomes = sender.outcomes
        for one in ready:
            if one.key in outcomes and (transcription := outcomes[one.key].transcription) is not None:
                self.accepted[transcription.transcription_id] = one.audio.uri
                self.audio_seconds += one.duration_seconds or 0.0
        replaced = [one for one in ready if isinstance(outcomes[one.key].error, PlaudReplacedError)]
        unreadable: list[PlaudError] = [
            outcome.error
            for outcome in outcomes.values()
            if isinstance(outcome.error, (PlaudStorageError, PlaudExpiredUrlError))
        ]
        return replaced, unreadable, sum(one.transcription is not None for one in outcomes.values())

    def _looked_at(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return recordings as they are now, without those that are known by what they are now."""
        examined = self._plan.examined(candidates)
        if all(now.key == before.key for now, before in zip(examined, candidates, strict=True)):
            return examined
        for now, before in zip(examined, candidates, strict=True):
            if now.key != before.key:
                log.info("%s has been replaced since it was listed.", now.audio.uri)
                del self._uris[before.key]
        self._note_keys(examined)
        _, claimable = self._claimable()
        return [one for one in examined if one.key in claimable]

    def _note_keys(self, candidates: Iterable[Candidate]) -> None:
        """Let the tasks that follow know which rows are those of the chunk."""
        self._uris |= {one.key: one.audio.uri for one in candidates}
        write_keys(self._manifest, [Keyed(key=key, uri=uri) for key, uri in self._uris.items()])

    def _claimable(self) -> tuple[dict[str, Entry], set[str]]:
        return self._ledger.claimable(list(self._uris), self._owner, resubmit=self._rules.resubmit)

    def _settled(self, mine: Iterable[Candidate]) -> list[PlaudError]:
        """Write down what is refused; return what may be mended by a retry."""
        passing = []
        for one in mine:
            if one.problem is None:
                continue
            log.warning("%s", one.problem)
            if one.is_refused:
                self._ledger.refused(one.key, self._owner, str(one.problem))
            else:
                self._ledger.release(self._owner, str(one.problem), keys=[one.key])
                passing.append(one.problem)
        return passing

    def _are_hours_spent(self, new: int) -> bool:
        """Whether the run may submit nothing more: then nothing needs to be read."""
        max_hours = self._rules.max_audio_hours
        if max_hours is None or not new:
            return False
        is_spent = self._ledger.audio_hours(self._owner.dag_id, self._owner.run_id) >= max_hours
        if is_spent:
            self._attempted = set(self._uris)
            self._say_beyond(new)
        return is_spent

    def _say_beyond(self, count: int) -> None:
        if count:
            log.warning(
                "%d recordings are not submitted: max_audio_hours lets this run submit %g audio hours, and "
                "they would go beyond. Raise it, or leave them to another run.",
                count,
                self._rules.max_audio_hours,
            )


def _plan(total: int, known: Sequence[Entry], examined: Sequence[Candidate]) -> dict[str, Any]:
    """Return what is going to be done, in numbers."""
    states = Counter(entry.state for entry in known)
    new = [one for one in examined if one.problem is None]
    hours = sum(one.duration_seconds or 0.0 for one in new) / 3600
    counts: Mapping[str, Any] = {
        "total": total,
        "landed_before": states[State.LANDED],
        "waiting": states[State.PROCESSING] + states[State.CLAIMED] + states[State.SUBMITTING],
        "new": len(new),
        "refused": sum(one.is_refused for one in examined),
        "failed_before": states[State.FAILED],
        "unknown_before": states[State.UNKNOWN],
        "expired_before": states[State.EXPIRED],
        "audio_hours": round(hours, 4),
    }
    # What goes beyond the run's audio hours, or could not be read now.
    left = total - sum(count for name, count in counts.items() if name not in ("total", "audio_hours"))
    return {**counts, "left": left} if left > 0 else dict(counts)
