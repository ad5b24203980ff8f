"""Who gets a recording, and who does not."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest

from plaud_provider.database.rows import batches
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.ledger.ledger import BATCH, Ledger, Owner, State
from tests.unit.ledger.ledgers import (
    NEIGHBOUR,
    NEXT_TRY,
    OWNER,
    STRANGER,
    Clock,
    bring,
    counts,
    entry,
    ledger_in,
    recording,
    state,
)
from tests.unit.warehouse.warehouses import Warehouse

OTHERS = [NEIGHBOUR, STRANGER]
LEASE = Ledger.LEASE_OF_CLAIM.total_seconds()
NEARLY = LEASE - 1


def claims(
    ledger: Ledger, owner: Owner, *, resubmit: Collection[State] = (), resubmit_own: bool = False
) -> bool:
    """Whether the owner gets the recording; what a plan would say has to agree."""
    _, claimable = ledger.claimable(["key_1"], owner, resubmit=resubmit)
    entries = ledger.claim([recording()], owner, resubmit=resubmit, resubmit_own=resubmit_own)
    is_mine = entries["key_1"].is_claimed_by(owner)
    if not resubmit_own:
        assert ("key_1" in claimable) is is_mine
    return is_mine


def test_first_one_gets_it(ledger: Ledger) -> None:
    assert claims(ledger, OWNER)


@pytest.mark.parametrize("other", OTHERS)
def test_others_do_not_get_it_while_its_lease_lasts(ledger: Ledger, clock: Clock, other: Owner) -> None:
    claims(ledger, OWNER)
    clock.advance(seconds=NEARLY)

    assert not claims(ledger, other)
    assert entry(ledger).owner == OWNER


@pytest.mark.parametrize("other", OTHERS)
def test_others_get_it_once_its_lease_has_passed(ledger: Ledger, clock: Clock, other: Owner) -> None:
    claims(ledger, OWNER)
    clock.advance(seconds=LEASE)

    assert claims(ledger, other)
    assert not ledger.submitting("key_1", OWNER)


def test_lapsed_claim_that_nobody_took_may_still_be_submitted(ledger: Ledger, clock: Clock) -> None:
    claims(ledger, OWNER)
    clock.advance(seconds=2 * LEASE)

    assert ledger.submitting("key_1", OWNER)


def test_next_try_gets_it_at_once(ledger: Ledger) -> None:
    claims(ledger, OWNER)

    assert claims(ledger, NEXT_TRY)
    assert not ledger.submitting("key_1", OWNER)
    assert ledger.submitting("key_1", NEXT_TRY)


def test_earlier_try_that_is_still_alive_takes_nothing_back(ledger: Ledger) -> None:
    claims(ledger, NEXT_TRY)

    assert not claims(ledger, OWNER)


def test_own_claim_again_starts_its_lease_anew(ledger: Ledger, clock: Clock) -> None:
    claims(ledger, OWNER)
    clock.advance(seconds=NEARLY)

    assert claims(ledger, OWNER)
    clock.advance(seconds=NEARLY)
    assert not claims(ledger, STRANGER)


def test_renewed_lease_keeps_others_off(ledger: Ledger, clock: Clock) -> None:
    claims(ledger, OWNER)
    clock.advance(seconds=NEARLY)

    assert ledger.renew(OWNER) == 1
    clock.advance(seconds=NEARLY)
    assert not claims(ledger, STRANGER)


def test_renewing_changes_only_what_is_claimed(ledger: Ledger, clock: Clock) -> None:
    bring(ledger, State.CLAIMED, key="claimed")
    bring(ledger, State.SUBMITTING, key="submitting")
    bring(ledger, State.CLAIMED, key="other", owner=STRANGER)
    clock.advance(minutes=1)

    assert ledger.renew(OWNER) == 1
    assert entry(ledger, "other").lease_until == entry(ledger, "claimed").claimed_at + ledger.LEASE_OF_CLAIM


@pytest.mark.parametrize("other", [NEIGHBOUR, STRANGER, NEXT_TRY, OWNER])
def test_released_claim_is_anybodys_at_once(ledger: Ledger, other: Owner) -> None:
    claims(ledger, OWNER)

    assert ledger.release(OWNER, "over the budget of 3 audio hours") == 1

    given_up = entry(ledger)
    assert given_up.is_released
    assert not given_up.is_claimed_by(OWNER)
    assert given_up.error == "over the budget of 3 audio hours"
    assert claims(ledger, other)
    assert entry(ledger).error is None


def test_released_claim_is_not_submitted_and_not_renewed(ledger: Ledger) -> None:
    claims(ledger, OWNER)
    ledger.release(OWNER)

    assert not ledger.submitting("key_1", OWNER)
    assert ledger.renew(OWNER) == 0
    assert entry(ledger).is_released


def test_only_the_keys_given_are_released(ledger: Ledger) -> None:
    ledger.claim([recording("key_1"), recording("key_2"), recording("key_3")], OWNER)

    assert ledger.release(OWNER, keys=["key_1", "key_3", "key_4"]) == 2
    assert not entry(ledger, "key_2").is_released
    assert ledger.release(OWNER, keys=[]) == 0


@pytest.mark.parametrize("known", [State.SUBMITTING, State.PROCESSING, State.LANDED])
@pytest.mark.parametrize("other", [STRANGER, NEXT_TRY])
def test_what_is_at_plaud_or_landed_is_nobodys(ledger: Ledger, known: State, other: Owner) -> None:
    bring(ledger, known)
    before = entry(ledger)

    assert not claims(ledger, other, resubmit=[State.FAILED, State.UNKNOWN, State.EXPIRED])
    assert entry(ledger) == before


@pytest.mark.parametrize("known", [State.FAILED, State.UNKNOWN, State.EXPIRED])
def test_what_failed_is_claimed_again_only_when_told(ledger: Ledger, known: State) -> None:
    bring(ledger, known)
    others = {State.FAILED, State.UNKNOWN, State.EXPIRED} - {known}

    assert not claims(ledger, STRANGER)
    assert not claims(ledger, STRANGER, resubmit=others)
    assert claims(ledger, STRANGER, resubmit=[known])


@pytest.mark.parametrize("known", [State.FAILED, State.UNKNOWN, State.EXPIRED])
@pytest.mark.parametrize("other", [NEXT_TRY, NEIGHBOUR])
def test_what_failed_in_a_run_is_not_tried_again_in_it(ledger: Ledger, known: State, other: Owner) -> None:
    bring(ledger, known)

    assert not claims(ledger, other, resubmit=[known])
    assert claims(ledger, other, resubmit=[known], resubmit_own=True)


def test_claim_again_forgets_the_earlier_transcription(ledger: Ledger, clock: Clock) -> None:
    bring(ledger, State.EXPIRED)
    clock.advance(days=8)

    ledger.claim([recording(duration_seconds=1.5)], STRANGER, resubmit=[State.EXPIRED])

    again = entry(ledger)
    assert (again.transcription_id, again.error, again.submitted_at, again.finished_at) == (None,) * 4
    assert (again.owner, again.claimed_at, again.duration_seconds) == (STRANGER, clock.now, 1.5)


def test_lapsed_submit_is_claimed_again_in_one_go_when_told(ledger: Ledger, clock: Clock) -> None:
    ledger.claim([recording()], OWNER)
    ledger.submitting("key_1", OWNER)
    clock.advance(minutes=3)

    again = ledger.claim([recording()], STRANGER, resubmit=[State.UNKNOWN])

    assert again["key_1"].is_claimed_by(STRANGER)


@pytest.mark.parametrize("known", [State.CLAIMED, State.SUBMITTING, State.PROCESSING, State.LANDED])
def test_only_what_came_to_nothing_may_be_submitted_again(ledger: Ledger, known: State) -> None:
    with pytest.raises(PlaudInputError, match=f"^resubmit: what is {known.value} cannot"):
        ledger.claim([recording()], OWNER, resubmit=[State.FAILED, known])
    assert ledger.entries(["key_1"]) == {}


def test_claim_returns_the_state_of_all(ledger: Ledger) -> None:
    bring(ledger, State.LANDED, key="landed")
    bring(ledger, State.CLAIMED, key="held", owner=STRANGER)

    entries = ledger.claim([recording("new"), recording("held"), recording("landed")], OWNER)

    assert {key: known.state for key, known in entries.items()} == {
        "new": State.CLAIMED,
        "held": State.CLAIMED,
        "landed": State.LANDED,
    }
    assert [key for key, known in entries.items() if known.is_claimed_by(OWNER)] == ["new"]


def test_recording_given_twice_is_claimed_once(ledger: Ledger) -> None:
    assert len(ledger.claim([recording(), recording()], OWNER)) == 1
    assert counts(ledger) == {State.CLAIMED: 1}


def test_nothing_to_claim_is_nothing(ledger: Ledger) -> None:
    assert ledger.claim([], OWNER) == {}
    assert ledger.entries([]) == {}


def test_more_than_a_statement_holds_is_claimed_and_ended(ledger: Ledger) -> None:
    keys = [f"key_{number:04}" for number in range(1_100)]

    entries = ledger.claim([recording(key) for key in keys], OWNER)

    assert sorted(entries) == keys
    assert ledger.release(OWNER, keys=keys) == 1_100


def test_nul_and_odd_text_survive_where_they_can(ledger: Ledger) -> None:
    uri = "s3://calls/a 100%/\U0001f468 ?#';--.wav"

    ledger.claim([recording(audio_uri=uri), recording("nul", audio_uri="a\x00b")], OWNER)

    assert entry(ledger).audio_uri == uri
    assert entry(ledger, "nul").audio_uri in ("a\x00b", "a\ufffdb")


def test_hours_are_those_claimed_submitted_or_paid_for_by_the_run(ledger: Ledger) -> None:
    for known in State:
        bring(ledger, known, key=known.value)
    bring(ledger, State.CLAIMED, key="neighbour", owner=NEIGHBOUR)
    bring(ledger, State.CLAIMED, key="stranger", owner=STRANGER)
    bring(ledger, State.CLAIMED, key="refused")
    ledger.refused("refused", OWNER, "too long")
    bring(ledger, State.CLAIMED, key="released")
    ledger.release(OWNER, keys=["released"])
    ledger.claim([recording("no_duration", duration_seconds=None)], OWNER)

    # Eight recordings of six minutes.
    assert ledger.audio_hours("archive", "manual__1") == pytest.approx(0.8)
    assert ledger.audio_hours("archive", "no_such_run") == 0.0


def test_takeover_by_another_run_moves_the_hours(ledger: Ledger, clock: Clock) -> None:
    ledger.claim([recording(duration_seconds=3600.0)], OWNER)
    clock.advance(seconds=LEASE)
    ledger.claim([recording(duration_seconds=3600.0)], STRANGER)

    assert ledger.audio_hours(OWNER.dag_id, OWNER.run_id) == 0
    assert ledger.audio_hours(STRANGER.dag_id, STRANGER.run_id) == 1
    assert state(ledger) is State.CLAIMED


@pytest.mark.parametrize("count", [0, 1, 299, 300, 301, 900])
def test_statements_take_each_key_once(count: int) -> None:
    keys = [f"key_{number}" for number in range(count)]

    parts = batches(keys, BATCH)

    assert [key for part in parts for key in part] == keys
    assert all(len(part) <= BATCH for part in parts)


# Audio hours


def test_no_more_than_the_audio_hours_of_a_run_are_claimed(ledger: Ledger) -> None:
    bring(ledger, State.PROCESSING, key="paid")
    bring(ledger, State.PROCESSING, key="of another run", owner=STRANGER)
    wanted = [recording(f"key_{n}") for n in range(4)]

    entries = ledger.claim(wanted, NEIGHBOUR, max_hours=0.35)

    assert set(entries) == {"key_0", "key_1"}, "of six minutes each, beside one that was paid for before"
    assert set(ledger.entries([one.recording_key for one in wanted])) == set(entries)
    assert set(ledger.claim(wanted, NEIGHBOUR, max_hours=0.35)) == set(entries), "its own count once"


def test_what_a_run_does_not_pay_for_takes_nothing_of_its_hours(ledger: Ledger) -> None:
    bring(ledger, State.PROCESSING, key="key_0", owner=STRANGER)

    entries = ledger.claim([recording("key_0"), recording("key_1")], OWNER, max_hours=0.1)

    assert set(entries) == {"key_0", "key_1"}
    assert entries["key_1"].is_claimed_by(OWNER)


def test_two_tasks_of_a_run_that_claim_at_once_use_up_its_hours_and_no_more(warehouse: Warehouse) -> None:
    ledger_in(warehouse)

    def claim(task: int) -> int:
        owner = OWNER._replace(map_index=task)
        wanted = [recording(f"key_{task}_{n}") for n in range(10)]
        return len(ledger_in(warehouse).claim(wanted, owner, max_hours=1.25))

    # DuckDB takes one process at a time; within one, its transactions do not wait for each other.
    with ThreadPoolExecutor(1 if warehouse.kind == "duckdb" else 4) as tasks:
        assert sum(tasks.map(claim, range(4))) == 12
