"""What the screenshots of the docs show, so that a test without a browser sees which of them are old."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from plaud_provider.get_provider_info import get_provider_info
from plaud_provider.submit.summary import Price

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "docs" / "images"
#: What each picture showed when it was taken; `make screenshots` writes it.
SHOWN = IMAGES / "screenshots.json"
RECORDING, ARCHIVE = "plaud_transcribe_recording", "plaud_transcribe_archive"
_STATIC = REPOSITORY / "plaud_provider" / "views" / "static"
#: Each picture: the connection's form, the form or the tasks of a DAG, one of the pages, or what a person is
#: asked.
SUBJECTS = {
    "connection-form": "connection",
    "connection-region": "connection",
    "connection-test": "connection",
    "trigger-form": f"form of {RECORDING}",
    "run-green": f"tasks of {RECORDING}",
    "task-log": f"tasks of {RECORDING}",
    "archive-form": f"form of {ARCHIVE}",
    "archive-run": f"tasks of {ARCHIVE}",
    "approval": "approval",
    "transcript": "page of transcripts",
    "ledger": "page of ledger",
}


def fingerprint(name: str) -> str:
    """Return a hash of what a picture shows today: what is declared, and Airflow's version."""
    kind, _, what = SUBJECTS[name].partition(" of ")
    content = json.dumps([version("apache-airflow-core"), _declared(kind, what)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def note(name: str) -> None:
    """Write down that a picture has just been taken."""
    noted: dict[str, str] = json.loads(SHOWN.read_text()) if SHOWN.exists() else {}
    noted[name] = fingerprint(name)
    SHOWN.write_text(json.dumps(noted, indent=2, sort_keys=True) + "\n")


def _declared(kind: str, what: str) -> Any:
    if kind == "connection":
        return get_provider_info()["connection-types"]
    if kind == "approval":
        from plaud_provider.operators.approve_recordings import question_in_words

        return question_in_words([{"new": 5, "audio_hours": 0.02}], most=0.001, price=Price(100, "USD"))
    if kind == "page":
        return (_STATIC / f"{what}.html").read_text()
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(str(REPOSITORY / "dags" / f"{what}.py")).dags[what]
    if kind == "form":
        return {name: dag.params.get_param(name).dump() for name in dag.params}
    return [sorted(dag.task_dict), sorted(dag.tags), type(dag.timetable).__name__]
