"""Each arrival is announced, and none is lost, whenever the triggerer ends; the same watch is one listing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset, AssetWatcher
from airflow.triggers.base import BaseEventTrigger

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.triggers.new_recordings import NewRecordingsTrigger
from tests.unit.operators.archives import Archive
from tests.unit.operators.conftest import archive as archive
from tests.unit.operators.test_purge_transcriptions import list_again


class AssetState:
    """Airflow's asset state, as far as triggers use it."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.is_away = False

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.rows.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        if self.is_away:
            raise ConnectionError
        self.rows[key] = value


class Watch:
    """A triggerer that runs one trigger; each look is one step."""

    def __init__(self, trigger: NewRecordingsTrigger, state: AssetState | None) -> None:
        self.trigger = trigger
        self.state = state
        self.events: list[dict[str, Any]] = []

    def looks(self, *steps: Any) -> list[dict[str, Any]]:
        """
        Start it, do something before each look, and kill it; return the events of all looks.

        :param steps: What happens before each look.
        """
        _, arguments = self.trigger.serialize()
        trigger = NewRecordingsTrigger(**arguments)
        trigger.asset_state_store = self.state

        async def listings() -> AsyncIterator[Any]:
            for step in steps:
                if step is not None:
                    step()
                yield await trigger.look()

        async def run() -> list[dict[str, Any]]:
            return [event.payload async for event in trigger.filter_shared_stream(listings())]

        found = asyncio.run(run())
        self.events += found
        return found


def put(folder: Path, *names: str) -> Any:
    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(b"audio" + name.encode())

    return write


@pytest.fixture(params=["asset state", "results_path"])
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Watch:
    folder = tmp_path / "in"
    if request.param == "asset state":
        return Watch(NewRecordingsTrigger(path=str(folder)), AssetState())
    return Watch(NewRecordingsTrigger(path=str(folder), results_path=str(tmp_path / "results")), None)


def test_each_arrival_is_announced_once(watch: Watch, tmp_path: Path) -> None:
    folder = tmp_path / "in"

    events = watch.looks(
        None, put(folder, "a.wav"), None, put(folder, "b.mp3", "c.m4a"), put(folder, "notes.txt"), None
    )

    assert [(event["recordings"], event["new"]) for event in events] == [(1, None), (3, 2)]
    assert {event["path"] for event in events} == {str(folder)}


def test_a_triggerer_that_starts_again_goes_on_where_it_was(watch: Watch, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    watch.looks(put(folder, "a.wav"), None)

    assert watch.looks(None, None) == []
    assert [event["new"] for event in watch.looks(put(folder, "b.wav"), None)] == [1]


def test_what_was_not_stored_when_the_triggerer_was_killed_is_announced_again(
    watch: Watch, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    watch.looks(put(folder, "a.wav"), None)
    # It ends with the event in hand, before the next look.
    watch.looks(put(folder, "b.wav"))

    again = watch.looks(None, None)

    assert [event["recordings"] for event in again] == [2]
    assert watch.looks(None) == []


def test_a_state_that_is_away_does_no_harm(tmp_path: Path) -> None:
    state = AssetState()
    watch = Watch(NewRecordingsTrigger(path=str(tmp_path / "in")), state)
    state.is_away = True

    events = watch.looks(put(tmp_path / "in", "a.wav"), None, None, put(tmp_path / "in", "b.wav"), None)

    assert [event["recordings"] for event in events] == [1, 2]


def test_a_replaced_recording_is_announced(watch: Watch, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    watch.looks(put(folder, "a.wav"), None)

    assert len(watch.looks(lambda: (folder / "a.wav").write_bytes(b"another, longer"), None)) == 1


def test_an_upload_with_an_earlier_time_is_not_missed(watch: Watch, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    watch.looks(put(folder, "b.wav"), None)

    def begun_before() -> None:
        put(folder, "a.wav")()
        os.utime(folder / "a.wav", (1, 1))

    assert [event["new"] for event in watch.looks(begun_before, None)] == [1]


def test_recordings_that_come_in_bursts_are_transcribed_once_by_two_dags(archive: Archive) -> None:
    state = AssetState()
    watch = Watch(NewRecordingsTrigger(path=str(archive.folder)), state)
    names = [f"{n:03}.wav" for n in range(60)]
    bursts = [names[:5], names[5:40], names[40:41], names[41:]]

    def transcribe(event: dict[str, Any], number: int) -> None:
        for dag in ("one", "two"):
            run_id = f"{dag}-{number}"
            if list_again(archive, run_id):
                archive.list(run_id)
                archive.submit(run_id)

    for number, burst in enumerate(bursts):
        # Each triggerer ends with its event in hand.
        for event in watch.looks(lambda burst=burst: archive.add(*burst)):
            transcribe(event, number)
    for event in watch.looks(None, None):
        transcribe(event, 99)

    assert archive.paid() == dict.fromkeys(names, 1)
    assert watch.looks(None, None) == []


def test_airflow_takes_it_for_a_watcher_and_shares_it(tmp_path: Path) -> None:
    one, other = (NewRecordingsTrigger(path="s3://aws@calls/in/", results_path=name) for name in ("/a", "/b"))

    AssetWatcher(name="new calls", trigger=one)
    asset = Asset("calls", watchers=[AssetWatcher(name="new calls", trigger=one)])

    assert asset.watchers
    assert one.shared_stream_key() == other.shared_stream_key()
    assert BaseEventTrigger.hash(*one.serialize()) == BaseEventTrigger.hash(*one.serialize())


def test_an_interval_that_would_flood_a_storage_is_refused() -> None:
    with pytest.raises(PlaudInputError, match="poll_interval: 1 is less than 5"):
        NewRecordingsTrigger(path="/in", poll_interval=1)
