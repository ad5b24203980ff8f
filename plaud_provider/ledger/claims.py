"""Who may submit a recording: one task at a time, until it has been sent."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from plaud_provider.database.rows import batches
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.ledger.entry import RESUBMITTABLE, Entry, Owner, Recording, State, kept_error
from plaud_provider.ledger.reading import BATCH, LedgerReader, owner_columns

if TYPE_CHECKING:
    from plaud_provider.database.rows import Row


class Claims(LedgerReader):
    """
    The claims in a ledger.

    Claimed are recordings that nobody has, those whose claim has lapsed or was released, those of an earlier
    try of the same task instance, and those in a state that its user wants to submit again.
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
    ) -> dict[str, Entry]:
        """
        Claim recordings for submitting, and return the state of all of them afterwards.

        Those that ``owner`` has got are claimed by it in what is returned.

        :param recordings: Recordings to claim.
        :param owner: Who claims.
        :param resubmit: States to claim again from: ``failed``, ``unknown``, ``expired``. What Plaud has
            accepted before is paid for again.
        :param resubmit_own: Whether also what came to such a state in this very run.
        :raises PlaudInputError: if recordings in another state were to be resubmitted.
        """
        if beyond := set(resubmit) - RESUBMITTABLE:
            raise PlaudInputError(
                f"resubmit: what is {', '.join(sorted(beyond))} cannot be submitted again; only failed, "
                "unknown and expired recordings can. Nothing was sent."
            )
        by_key = {recording.recording_key: recording for recording in recordings}
        # In the same order in every task: two that claim the same keys wait for each other, not in a circle.
        keys = sorted(by_key)

        def claim(connection: sa.Connection) -> dict[str, Entry]:
            # First all locks, in the order of the keys, then all changes.
            for batch in batches(keys, BATCH):
                self._lock(connection, self._has_key(batch))
            # The time when there is nothing to wait for any more: a lease is not to be spent on that.
            now = self._now(connection)
            for batch in batches(keys, BATCH):
                self._note_lapsed(connection, now, self._has_key(batch))
            rows = [self._claimed_row(by_key[key], owner, now) for key in keys]
            self.database.dialect.clean(rows)
            if rows:
                self.database.dialect.upsert(
                    connection,
                    self._table,
                    rows,
                    may_replace=lambda new: self._may_claim(new, resubmit, resubmit_own=resubmit_own),
                )
            return self._read(connection, keys)

        return self._run(claim)

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
        # Of this try, whose lease starts anew, or an earlier one: one that is still alive must not take from
        # a later one.
        is_earlier_try = sa.and_(
            is_same_run,
            there.owner_task_id == new.owner_task_id,
            there.owner_map_index == new.owner_map_index,
            there.owner_try_number <= new.owner_try_number,
        )
        has_lapsed = there.lease_until <= new.claimed_at
        return sa.or_(
            sa.and_(self._is(State.CLAIMED), sa.or_(has_lapsed, is_earlier_try)),
            sa.and_(self._is(*sorted(resubmit)), sa.true() if resubmit_own else sa.not_(is_same_run)),
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
        in_order = sorted(set(keys))

        def look(connection: sa.Connection) -> tuple[dict[str, Entry], set[str]]:
            entries = self._read_settled(connection, in_order)
            new = SimpleNamespace(**owner_columns(owner), claimed_at=self._now(connection))
            may_claim = self._may_claim(new, resubmit, resubmit_own=False)
            found = {
                row.recording_key
                for batch in batches(sorted(entries), BATCH)
                for row in connection.execute(
                    sa.select(self._c.recording_key).where(self._has_key(batch), may_claim)
                )
            }
            return entries, found | (set(in_order) - set(entries))

        return self._run(look)

    def renew(self, owner: Owner) -> int:
        """
        Start the lease of what this owner still has claimed anew.

        :param owner: Who has claimed.
        :return: How many recordings that are.
        """

        def renew(connection: sa.Connection) -> int:
            now = self._now(connection)
            return self._change(
                connection, self._is_claimed_by(owner), lease_until=now + self.LEASE_OF_CLAIM, updated_at=now
            )

        return self._run(renew)

    def release(self, owner: Owner, error: str | None = None, *, keys: Collection[str] | None = None) -> int:
        """
        Give up claims: others may take them at once.

        :param owner: Who has claimed.
        :param error: Why they are given up; kept until they are claimed again.
        :param keys: Recordings to give up; ``None`` for all that this owner has claimed.
        :return: How many were given up.
        """
        chosen = [sa.true()] if keys is None else [*map(self._has_key, batches(sorted(keys), BATCH))]
        reason = kept_error(error) if error is not None else None

        def release(connection: sa.Connection) -> int:
            values = {"lease_until": self._c.claimed_at, "error": reason, "updated_at": self._now(connection)}
            return sum(
                self._change(connection, sa.and_(self._is_claimed_by(owner), some), **values)
                for some in chosen
            )

        return self._run(release)

    def _is_claimed_by(self, owner: Owner) -> sa.ColumnElement[bool]:
        is_mine = (self._c[name] == value for name, value in owner_columns(owner).items())
        return sa.and_(self._is(State.CLAIMED), self._is_kept, *is_mine)

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
        }
