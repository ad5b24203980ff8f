"""What the sweep removes of what killed processes have left."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

from plaud_provider.handover.kept_results import kept_name
from plaud_provider.handover.sweep import sweep
from tests.unit.handover.killed_writer import killed_while_writing

REGION = "us"


def test_an_answer_that_a_killed_trigger_has_not_finished_goes_once_it_has_landed(tmp_path: Path) -> None:
    landed, waited_for, just_now = (
        killed_while_writing(tmp_path, kept_name(REGION, known)) for known in ("landed", "waited", "now")
    )
    for left in (landed, waited_for):
        written = time.time() - 120
        os.utime(left, (written, written))

    def ended_since(moment: datetime) -> list[tuple[str, str, str]]:
        return [("key", REGION, known) for known in ("landed", "now")]

    assert sweep(str(tmp_path), ended_since) == 1

    # One may be being written by a trigger that waits for the same transcription.
    assert set(tmp_path.iterdir()) == {waited_for, just_now}
