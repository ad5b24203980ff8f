"""Who may submit a recording: whoever claims it first, until the lease of the claim ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from plaud_provider.database.rows import batches
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.ledger.entry import RESUBMITTABLE, Entry, Owner, Recording, State, kept_error
from plaud_provider.ledger.reader import BATCH, OWNER_COLUMNS, LedgerReader, row_to_entry

if TYPE_CHECKING:
    from plaud_provider.database.rows import Row


class Claims(LedgerReader):
    """
    The ledger as recordings are claimed in it.

    Leases go by the clock of the database, which all hosts share.
    """

    #: For how long a claimed recording is its owner's, unless renewed.
    LEASE_OF_CLAIM = timedelta(minutes=3)

    def claim(
        self,
        recordings: Collection[Recording],
        owner: Owner,
        *,
        resubmit: Collection[State] = (),
        resubmit_own: bool = False,
        max_hours: float | None = None,
    ) -> dict[str, Entry]:
        """
        Claim recordings for submitting, and return the state of all of them afterwards.

        Those that ``owner`` has got are claimed by it in what is returned. What it could have claimed, but
        for ``max_hours``, is left out.

        :param recordings: Recordings to claim.
        :param owner: Who claims.
        :param resubmit: States to claim again from: ``failed``, ``unknown``, ``expired``. What Plaud has
            accepted before is paid for again.
        :param resubmit_own: Whether also what came to such a state in this very run.
        :param max_hours: Audio hours that the run may submit, see :meth:`audio_hours`; recordings that would
            go beyond are not claimed.
        :raises PlaudInputError: if recordings in another state were to be resubmitted.
        """
        if beyond := set(resubmit) - RESUBMITTABLE:
            raise PlaudInputError(
                f"resubmit: what is {', '.join(sorted(beyond))} cannot be submitted again; only failed, "
                "unknown and expired recordings can. Nothing was sent."
            )
        by_key = {recording.recording_key: recording for recording in recordings}

        def claim(connection: sa.Connection, keys: Sequence[str]) -> dict[str, Entry]:
            self._lock(connection, self._has_key(keys))
            self._note_lapsed(connection, self._has_key(keys))
            dialect = self.database.dialect
            beyond: set[str] = set()
            if max_hours is not None:
                # Of two tasks of a run, each sees what the other has claimed.
                dialect.lock(connection, [f"{self._table.name}\0{owner.dag_id}\0{owner.run_id}"])
                rule = self._may_claim(self._claim_of(owner), resubmit, resubmit_own=resubmit_own)
                known = {
                    row.recording_key: row.may_claim
                    for row in self._rows(connection, keys, rule.label("may_claim"))
                }
                wanted = [by_key[key] for key in keys if known.get(key, True)]
                beyond = self._beyond_hours(connection, wanted, owner, max_hours)
            # After all locks: waiting for them must not shorten the lease.
            now = self._time(connection)
            rows = [self._claimed_row(by_key[key], owner, now) for key in keys if key not in beyond]
            dialect.clean(rows)
            dialect.upsert(
                connection,
                self._table,
                rows,
                may_replace=lambda new: self._may_claim(new, resubmit, resubmit_own=resubmit_own),
            )
            found = {
                key: entry for key, entry in self._entries(connection, keys).items() if key not in beyond
            }
            claimed = sum(entry.is_claimed_by(owner) for entry in found.values())
            self._tell(connection, State.CLAIMED, claimed)
            return found

        return self._in_batches(by_key, claim)

    def _may_claim(
        self, new: Any, resubmit: Collection[State], *, resubmit_own: bool
    ) -> sa.ColumnElement[bool]:
        """
        Return the rule of claims: whether a row may be replaced by a claim.

        :param new: The row of the claim: its columns, or its values.
        :param resubmit: States to claim again from.
        :param resubmit_own: Whether also those that came about in this very run: what failed is tried once a
            run, unless somebody says so.
        """
        there = self._c
        is_same_run = sa.and_(there.owner_dag_id == new.owner_dag_id, there.owner_run_id == new.owner_run_id)
        # A later try takes over what an earlier one claimed, and a try renews its own lease. An earlier try
        # that is still alive must not take from a later one.
        is_earlier_try = sa.and_(
            is_same_run,
            there.owner_task_id == new.owner_task_id,
            there.owner_map_index == new.owner_map_index,
            there.owner_try_number <= new.owner_try_number,
        )
        has_lapsed = there.lease_until <= new.claimed_at
        return sa.and_(
            there.purged_at.is_(None),
            sa.or_(
                sa.and_(self._is(State.CLAIMED), sa.or_(has_lapsed, is_earlier_try)),
                sa.and_(self._is(*sorted(resubmit)), sa.true() if resubmit_own else sa.not_(is_same_run)),
            ),
        )

    def claimable(
        self, keys: Collection[str], owner: Owner, *, resubmit: Collection[State] = ()
    ) -> tuple[dict[str, Entry], set[str]]:
        """
        Return what is known of recordings, and which of them a claim would get now.

        :param keys: Recording keys.
        :param owner: Who would claim.
        :param resubmit: States to claim again from.
        :return: Rows by their keys, and the keys a claim would get: those without a row too.
        """
        may_claim = self._may_claim(self._claim_of(owner), resubmit, resubmit_own=False)
        found = self._in_batches(
            keys,
            lambda connection, some: {
                row.recording_key: (row_to_entry(row), bool(row.may_claim))
                for row in self._rows(connection, some, may_claim.label("may_claim"))
            },
        )
        claimable = {key for key in keys if key not in found or found[key][1]}
        return {key: entry for key, (entry, _) in found.items()}, claimable

    def renew(self, owner: Owner) -> int:
        """
        Start the lease of what this owner still has claimed anew.

        :param owner: Who has claimed.
        :return: How many recordings that are.
        """
        lease_until = self._clock(self.LEASE_OF_CLAIM)
        return self._run(
            lambda connection: self._change(
                connection, self._is_claimed_by(owner), lease_until=lease_until, updated_at=self._now
            )
        )

    def release(self, owner: Owner, error: str | None = None, *, keys: Collection[str] | None = None) -> int:
        """
        Give up claims: others may take them at once.

        :param owner: Who has claimed.
        :param error: Why they are given up; kept until they are claimed again.
        :param keys: Recordings to give up; ``None`` for all that this owner has claimed.
        :return: How many were given up.
        """
        chosen = [sa.true()] if keys is None else [*map(self._has_key, batches(sorted(keys), BATCH))]
        values = {
            "lease_until": self._c.claimed_at,
            "error": kept_error(error) if error is not None else None,
            "updated_at": self._now,
        }

        def release(connection: sa.Connection) -> int:
            return sum(
                self._change(connection, sa.and_(self._is_claimed_by(owner), some), **values)
                for some in chosen
            )

        return self._run(release)

    def _beyond_hours(
        self, connection: sa.Connection, wanted: Collection[Recording], owner: Owner, max_hours: float
    ) -> set[str]:
        """Return which recordings a run may not claim, as it would go beyond its audio hours."""
        keys = [recording.recording_key for recording in wanted]
        left = max_hours * 3600 - self._audio_seconds(connection, owner.dag_id, owner.run_id, but=keys)
        beyond = set()
        for recording in wanted:
            seconds = recording.duration_seconds or 0.0
            if seconds <= left:
                left -= seconds
            else:
                beyond.add(recording.recording_key)
        return beyond

    def _is_claimed_by(self, owner: Owner) -> sa.ColumnElement[bool]:
        is_mine = (self._c[name] == value for name, value in owner_columns(owner).items())
        return sa.and_(self._is(State.CLAIMED), self._is_kept, *is_mine)

    def _claim_of(self, owner: Owner) -> SimpleNamespace:
        """Return what the rule of claims asks of a claim that would be made now."""
        return SimpleNamespace(**owner_columns(owner), claimed_at=self._now)

    def _claimed_row(self, recording: Recording, owner: Owner, now: datetime) -> Row:
        return {
            **recording._asdict(),
            "state": State.CLAIMED.value,
            "transcription_id": None,
            "error": None,
            **owner_columns(owner),
            "lease_until": now + self.LEASE_OF_CLAIM,
            "claimed_at": now,
            "submitted_at": None,
            "accepted_at": None,
            "finished_at": None,
            "updated_at": now,
            "purged_at": None,
        }


def owner_columns(owner: Owner) -> dict[str, Any]:
    """Return an owner as the table has it."""
    return dict(zip(OWNER_COLUMNS, owner, strict=True))
