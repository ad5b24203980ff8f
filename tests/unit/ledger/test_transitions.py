"""Each step that a recording takes, and each that it does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from plaud_provider.ledger.ledger import Entry, Ledger, Owner, State
from tests.unit.ledger.ledgers import (
    NEIGHBOUR,
    NEXT_TRY,
    NOW,
    OWNER,
    STRANGER,
    Clock,
    bring,
    counts,
    entry,
    recording,
    state,
)
from tests.unit.warehouse.warehouses import Warehouse

Step = Callable[[Ledger, str, Owner], object]

#: What each step does, and where it leads from each state it may start from; from others it does not happen.
STEPS: dict[str, tuple[Step, dict[State, State]]] = {
    "submitting": (
        lambda ledger, key, owner: ledger.submitting(key, owner),
        {State.CLAIMED: State.SUBMITTING},
    ),
    "not_accepted": (
        lambda ledger, key, owner: ledger.not_accepted(key, owner),
        {State.SUBMITTING: State.CLAIMED, State.UNKNOWN: State.CLAIMED},
    ),
    "processing": (
        lambda ledger, key, owner: ledger.processing(recording(key), owner, "txn_new", submitted_at=NOW),
        {State.SUBMITTING: State.PROCESSING, State.UNKNOWN: State.PROCESSING},
    ),
    "unknown": (
        lambda ledger, key, owner: ledger.unknown(key, owner, "lost"),
        {State.SUBMITTING: State.UNKNOWN, State.UNKNOWN: State.UNKNOWN},
    ),
    "refused": (
        lambda ledger, key, owner: ledger.refused(key, owner, "too long"),
        {State.CLAIMED: State.FAILED, State.SUBMITTING: State.FAILED, State.UNKNOWN: State.FAILED},
    ),
    "release": (
        lambda ledger, key, owner: ledger.release(owner, keys=[key]),
        {State.CLAIMED: State.CLAIMED},
    ),
    "landed": (
        lambda ledger, key, _: ledger.landed([f"txn_{key}"], region="us"),
        {State.PROCESSING: State.LANDED, State.FAILED: State.LANDED, State.EXPIRED: State.LANDED},
    ),
    "known_again": (
        lambda ledger, key, _: ledger.known_again([f"txn_{key}"], region="us"),
        {State.EXPIRED: State.PROCESSING},
    ),
    "failed": (
        lambda ledger, key, _: ledger.failed({f"txn_{key}": "no speech"}, region="us"),
        {State.PROCESSING: State.FAILED},
    ),
    "expired": (
        lambda ledger, key, _: ledger.expired({f"txn_{key}": "gone"}, region="us"),
        {State.PROCESSING: State.EXPIRED, State.LANDED: State.EXPIRED},
    ),
}
OF_ANYBODY = ("landed", "failed", "expired", "known_again", "processing")
OF_OWNERS = [name for name in STEPS if name not in OF_ANYBODY]
#: An id that is paid for is never ignored: see "Ids that come late".
CONDITIONAL = [name for name in STEPS if name != "processing"]


@pytest.mark.parametrize("step", CONDITIONAL)
def test_step_happens_from_the_states_it_may_start_from_and_no_others(ledger: Ledger, step: str) -> None:
    take, expected = STEPS[step]
    for start in State:
        bring(ledger, start, key=start.value)
    before = ledger.entries(list(State))

    happened = {start for start in State if take(ledger, start.value, OWNER)}

    after = ledger.entries(list(State))
    assert happened == set(expected)
    assert {start: after[start].state for start in happened} == expected
    assert all(after[start] == before[start] for start in State if start not in happened)


@pytest.mark.parametrize("other", [NEXT_TRY, NEIGHBOUR])
@pytest.mark.parametrize("step", OF_OWNERS)
def test_step_of_another_owner_does_not_happen(ledger: Ledger, step: str, other: Owner) -> None:
    take, starts = STEPS[step]
    for start in starts:
        bring(ledger, start, key=start.value)
    before = ledger.entries(list(starts))

    assert not any(take(ledger, start.value, other) for start in starts)
    assert ledger.entries(list(starts)) == before


@pytest.mark.parametrize("step", CONDITIONAL)
def test_step_of_a_recording_that_nobody_has_claimed_does_not_happen(ledger: Ledger, step: str) -> None:
    take, _ = STEPS[step]

    assert not take(ledger, "key_1", OWNER)
    assert ledger.entries(["key_1"]) == {}


def test_row_of_a_claim_says_all_of_it(ledger: Ledger) -> None:
    claimed = ledger.claim([recording(language="ja", speaker_diarization=True)], OWNER)

    assert claimed == {
        "key_1": Entry(
            recording_key="key_1",
            state=State.CLAIMED,
            audio_uri="s3://calls/key_1.wav",
            region="us",
            client_id="client",
            language="ja",
            speaker_diarization=True,
            duration_seconds=360.0,
            transcription_id=None,
            error=None,
            owner=OWNER,
            lease_until=NOW + Ledger.LEASE_OF_CLAIM,
            claimed_at=NOW,
            submitted_at=None,
            accepted_at=None,
            finished_at=None,
            updated_at=NOW,
        )
    }
    assert claimed == ledger.entries(["key_1", "key_2"])


def test_submitting_has_a_lease_of_its_own_and_says_when_it_is_sent(ledger: Ledger, clock: Clock) -> None:
    bring(ledger, State.CLAIMED)
    clock.advance(minutes=5)

    ledger.submitting("key_1", OWNER)

    now = NOW + timedelta(minutes=5)
    noted = entry(ledger)
    lease_until = now + Ledger.LEASE_OF_SUBMIT
    assert (noted.lease_until, noted.submitted_at, noted.updated_at) == (lease_until, now, now)


def test_processing_keeps_the_id_and_when_it_was_submitted(ledger: Ledger) -> None:
    bring(ledger, State.SUBMITTING)
    submitted_at = datetime(2026, 3, 29, 3, 31, 0, 123456, tzinfo=timezone(timedelta(hours=2)))

    assert ledger.processing(
        recording(),
        OWNER,
        "txn_1",
        submitted_at=submitted_at,
        accepted_at=submitted_at - timedelta(hours=1),
    )

    noted = entry(ledger)
    assert (noted.transcription_id, noted.submitted_at) == ("txn_1", submitted_at.astimezone(UTC))
    assert noted.accepted_at == submitted_at.astimezone(UTC) - timedelta(hours=1)
    assert (noted.finished_at, noted.error) == (None, None)
    assert noted.lease_until == NOW + Ledger.LEASE_OF_WAIT


def test_processing_said_twice_is_so(ledger: Ledger) -> None:
    bring(ledger, State.PROCESSING)

    assert ledger.processing(recording(), OWNER, "txn_key_1", submitted_at=NOW)
    assert entry(ledger).transcription_id == "txn_key_1"


def test_submitting_said_twice_is_refused_the_second_time(ledger: Ledger) -> None:
    bring(ledger, State.CLAIMED)

    assert ledger.submitting("key_1", OWNER)
    assert not ledger.submitting("key_1", OWNER)


def test_late_answer_corrects_what_has_become_unknown(ledger: Ledger, clock: Clock) -> None:
    bring(ledger, State.SUBMITTING)
    clock.advance(minutes=4)
    assert state(ledger) is State.UNKNOWN

    assert ledger.processing(recording(), OWNER, "txn_1", submitted_at=NOW)

    noted = entry(ledger)
    assert (noted.state, noted.transcription_id) == (State.PROCESSING, "txn_1")
    assert (noted.error, noted.finished_at) == (None, None)


def test_late_refusal_corrects_what_has_become_unknown(ledger: Ledger, clock: Clock) -> None:
    bring(ledger, State.SUBMITTING)
    clock.advance(minutes=4)
    assert state(ledger) is State.UNKNOWN

    assert ledger.not_accepted("key_1", OWNER)

    noted = entry(ledger)
    assert noted.is_claimed_by(OWNER)
    assert (noted.submitted_at, noted.finished_at, noted.error) == (None, None, None)


# Ids that come late


@pytest.mark.parametrize("start", [State.CLAIMED, State.SUBMITTING, State.UNKNOWN])
def test_id_is_taken_by_a_row_that_is_somebody_elses_and_has_none(
    ledger: Ledger, start: State, caplog: pytest.LogCaptureFixture
) -> None:
    bring(ledger, start, owner=STRANGER)

    assert not ledger.processing(recording(), OWNER, "txn_1", submitted_at=NOW)

    noted = entry(ledger)
    assert (noted.state, noted.transcription_id, noted.owner) == (State.PROCESSING, "txn_1", OWNER)
    assert "txn_1" in (noted.error or "")
    assert repr(STRANGER.run_id) in (noted.error or "")
    assert "txn_1" in caplog.text
    assert not ledger.submitting("key_1", STRANGER), "it is paid for: nobody else sends it"


def test_id_is_taken_by_a_row_that_was_refused_meanwhile(ledger: Ledger) -> None:
    bring(ledger, State.CLAIMED, owner=STRANGER)
    ledger.refused("key_1", STRANGER, "too long")

    assert not ledger.processing(recording(), OWNER, "txn_1", submitted_at=NOW)
    assert (state(ledger), entry(ledger).transcription_id) == (State.PROCESSING, "txn_1")


def test_id_whose_row_is_gone_gets_it_back(ledger: Ledger, warehouse: Warehouse) -> None:
    bring(ledger, State.SUBMITTING)
    warehouse.run("delete from plaud_submissions")

    assert not ledger.processing(recording(), OWNER, "txn_1", submitted_at=NOW)

    noted = entry(ledger)
    assert (noted.state, noted.transcription_id, noted.owner) == (State.PROCESSING, "txn_1", OWNER)
    assert noted.audio_uri == recording().audio_uri
    assert "its row was gone" in (noted.error or "")


@pytest.mark.parametrize("start", [State.PROCESSING, State.LANDED, State.FAILED, State.EXPIRED])
def test_id_beside_another_gets_a_row_of_its_own_that_names_both(
    ledger: Ledger, warehouse: Warehouse, start: State
) -> None:
    bring(ledger, start, owner=STRANGER)
    before = entry(ledger)

    assert not ledger.processing(recording(), OWNER, "txn_2", submitted_at=NOW)
    assert not ledger.processing(recording(), OWNER, "txn_2", submitted_at=NOW), "said twice is one row"

    assert entry(ledger) == before
    found = warehouse.rows(
        "select transcription_id, state, audio_uri, error from plaud_submissions order by transcription_id"
    )
    assert [known for known, *_ in found] == ["txn_2", "txn_key_1"]
    _, noted, uri, error = found[0]
    assert (noted, uri) == ("processing", recording().audio_uri)
    assert "txn_key_1" in error
    assert "txn_2" in error
    assert ledger.landed(["txn_2"], region="us") == 1, "it lands like any other"


def test_id_that_is_there_already_is_left_as_it_is(ledger: Ledger) -> None:
    bring(ledger, State.LANDED)
    before = entry(ledger)

    assert ledger.processing(recording(), OWNER, "txn_key_1", submitted_at=NOW)
    assert entry(ledger) == before


def test_submitting_lapses_to_unknown_for_whoever_looks(ledger: Ledger, clock: Clock) -> None:
    for number, _ in enumerate(("entries", "claim")):
        bring(ledger, State.SUBMITTING, key=f"key_{number}")
    clock.advance(minutes=3)

    seen = [
        ledger.entries(["key_0"])["key_0"].state,
        ledger.claim([recording("key_1")], NEIGHBOUR)["key_1"].state,
    ]

    assert seen == [State.UNKNOWN, State.UNKNOWN]


def test_lapsed_submitting_says_why_and_when(ledger: Ledger, clock: Clock) -> None:
    bring(ledger, State.SUBMITTING)
    clock.advance(minutes=2, seconds=59)
    assert state(ledger) is State.SUBMITTING
    clock.advance(seconds=1)

    noted = entry(ledger)

    assert noted.state is State.UNKNOWN
    assert noted.error is not None
    assert "may have accepted and billed it" in noted.error
    assert (noted.finished_at, noted.lease_until) == (clock.now, None)
    assert (noted.submitted_at, noted.owner) == (NOW, OWNER)


def test_landed_failed_and_expired_are_many_at_once(ledger: Ledger) -> None:
    keys = [f"key_{number:03}" for number in range(7)]
    ledger.claim([recording(key) for key in keys], OWNER)
    for key in keys:
        ledger.submitting(key, OWNER)
        ledger.processing(recording(key), OWNER, f"txn_{key}", submitted_at=NOW)

    landed = ledger.landed([f"txn_{key}" for key in keys[:3]], region="us")
    failed = ledger.failed({f"txn_{key}": f"reason of {key}" for key in keys[3:5]}, region="us")
    expired = ledger.expired({f"txn_{keys[5]}": "gone"}, region="us")

    assert (landed, failed, expired) == (3, 2, 1)
    assert counts(ledger) == {
        State.LANDED: 3,
        State.FAILED: 2,
        State.EXPIRED: 1,
        State.PROCESSING: 1,
    }
    errors = [known.error for known in ledger.entries(keys).values()]
    assert sorted(filter(None, errors)) == ["gone", "reason of key_003", "reason of key_004"]


def test_of_two_regions_with_the_same_id_only_the_one_meant_changes(ledger: Ledger) -> None:
    for region in ("us", "eu"):
        ledger.claim([recording(region, region=region)], OWNER)
        ledger.submitting(region, OWNER)
        ledger.processing(recording(region, region=region), OWNER, "txn_1", submitted_at=NOW)

    assert ledger.landed(["txn_1"], region="eu") == 1

    assert (state(ledger, "us"), state(ledger, "eu")) == (State.PROCESSING, State.LANDED)


def test_landing_again_changes_nothing(ledger: Ledger, clock: Clock) -> None:
    bring(ledger, State.LANDED)
    before = entry(ledger)
    clock.advance(days=1)

    assert ledger.landed(["txn_key_1"], region="us") == 0
    assert entry(ledger) == before


def test_landing_forgets_why_it_had_failed(ledger: Ledger) -> None:
    bring(ledger, State.EXPIRED)

    ledger.landed(["txn_key_1"], region="us")

    assert entry(ledger).error is None


@pytest.mark.parametrize("error", ["", "  ", "x" * 2_000, "a\x00b"])
def test_reason_is_always_given_and_short(ledger: Ledger, error: str) -> None:
    bring(ledger, State.SUBMITTING)

    ledger.unknown("key_1", OWNER, error)

    noted = entry(ledger).error
    assert noted
    assert len(noted) <= 500
    assert "\x00" not in noted


def test_reason_has_no_query_strings(ledger: Ledger) -> None:
    bring(ledger, State.CLAIMED)

    ledger.refused(
        "key_1",
        OWNER,
        "https://calls.s3.amazonaws.com/a.wav?X-Amz-Signature=canary&b=1 says 403. Is it b.wav?sig=canary ?",
    )

    assert entry(ledger).error == (
        "https://calls.s3.amazonaws.com/a.wav?<query removed> says 403. Is it b.wav?<query removed> ?"
    )


def test_refused_is_failed_and_was_never_submitted(ledger: Ledger) -> None:
    bring(ledger, State.SUBMITTING)

    ledger.refused("key_1", OWNER, "audioUrl: not an audio file")

    noted = entry(ledger)
    assert (noted.state, noted.submitted_at, noted.finished_at) == (State.FAILED, None, NOW)


def test_fault_77_times_without_zone_and_in_other_zones_are_utc(ledger: Ledger) -> None:
    for key, submitted_at in (
        ("naive", datetime(2026, 10, 25, 0, 30)),
        ("summer", datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=2)))),
        ("west", datetime(2026, 10, 24, 15, 0, tzinfo=timezone(-timedelta(hours=9, minutes=30)))),
    ):
        bring(ledger, State.SUBMITTING, key=key)
        ledger.processing(recording(key), OWNER, f"txn_{key}", submitted_at=submitted_at)

    noted = ledger.entries(["naive", "summer", "west"]).values()

    assert {known.submitted_at for known in noted} == {datetime(2026, 10, 25, 0, 30, tzinfo=UTC)}
    assert {known.claimed_at.tzinfo for known in noted} == {UTC}


def test_fault_77_a_clock_that_goes_back_keeps_leases_and_loses_nothing(ledger: Ledger, clock: Clock) -> None:
    bring(ledger, State.SUBMITTING)
    clock.advance(hours=-1)

    assert state(ledger) is State.SUBMITTING
    assert ledger.processing(recording(), OWNER, "txn_1", submitted_at=clock.now)
