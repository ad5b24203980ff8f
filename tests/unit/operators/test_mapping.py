"""Mapped tasks: what Airflow stores of a DAG has no signature, and no label fails a task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from airflow.sdk import DAG, task
from airflow.sdk.execution_time.task_runner import _render_map_index
from airflow.serialization.serialized_objects import DagSerialization

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator

SIGNATURE = "canary-signature-6f1d"
URL = f"https://files.example/calls/1.mp3?sig={SIGNATURE}"

OPERATORS = [(SubmitTranscriptionOperator, "audio_url"), (TranscriptionToSqlOperator, "audio_uri")]
WAYS: dict[str, Callable[[Any, str], Any]] = {
    "as it is": lambda operator, name: operator(**{name: URL}),
    "partial": lambda operator, name: operator.partial(**{name: URL}).expand(region=["us", "us"]),
    "expand": lambda operator, name: operator.partial().expand(**{name: [URL, URL]}),
    "expand, of a mapping": lambda operator, name: operator.partial().expand(**{name: {"a": URL}}),
    "expand_kwargs": lambda operator, name: operator.partial().expand_kwargs([{name: URL}, {name: URL}]),
}


class Named:
    """An operator class with the arguments that it needs besides."""

    def __init__(self, operator: type[Any]) -> None:
        self._operator = operator
        self._needs = {"task_id": "task"}
        if operator is TranscriptionToSqlOperator:
            self._needs["transcription_id"] = "txn_1"

    def __call__(self, **arguments: Any) -> Any:
        return self._operator(**self._needs, **arguments)

    def partial(self, **arguments: Any) -> Any:
        return self._operator.partial(**self._needs, **arguments)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("operator", "name"), OPERATORS)
def test_no_signature_is_in_the_serialized_dag(
    operator: type[Any], name: str, way: Callable[[Any, str], Any]
) -> None:
    with DAG("d", schedule=None) as dag:
        way(Named(operator), name)
    stored = json.dumps(DagSerialization.serialize_dag(dag))

    assert SIGNATURE not in stored
    assert "https://files.example/calls/1.mp3" in stored


@pytest.mark.parametrize(("operator", "name"), OPERATORS)
def test_default_args_leave_none_if_the_reference_is_wrapped(operator: type[Any], name: str) -> None:
    with DAG("d", schedule=None, default_args={name: AudioReference(URL)}) as dag:
        Named(operator)()

    assert SIGNATURE not in json.dumps(DagSerialization.serialize_dag(dag))


def test_a_mapped_task_has_the_whole_url() -> None:
    with DAG("d", schedule=None):
        mapped = SubmitTranscriptionOperator.partial(task_id="submit", audio_url=URL).expand(language=["en"])
        over_urls = SubmitTranscriptionOperator.partial(task_id="over_urls").expand(audio_url=[URL])

    assert mapped.unmap({"language": "en"}).audio_url.reveal() == URL
    [url] = over_urls.expand_input.value["audio_url"]
    assert over_urls.unmap({"audio_url": url}).audio_url.reveal() == URL


def test_what_is_no_reference_is_mapped_as_ever() -> None:
    with DAG("d", schedule=None):

        @task
        def urls() -> list[str]:
            return [URL]

        @task
        def arguments() -> list[dict[str, str]]:
            return [{"audio_url": URL}]

        output = urls()
        mapped = SubmitTranscriptionOperator.partial(task_id="a", audio_url="{{ params.url }}").expand(
            language=["en"]
        )
        over_output = SubmitTranscriptionOperator.partial(task_id="b").expand(audio_url=output)
        over_arguments = SubmitTranscriptionOperator.partial(task_id="c").expand_kwargs(arguments())

    assert mapped.partial_kwargs["audio_url"] == "{{ params.url }}"
    assert over_output.expand_input.value["audio_url"] is output
    assert over_output.upstream_task_ids == {"urls"}
    assert over_arguments.upstream_task_ids == {"arguments"}


def test_paths_are_references_too() -> None:
    with DAG("d", schedule=None):
        mapped = SubmitTranscriptionOperator.partial(task_id="a").expand(audio_url=[Path("/data/1.mp3")])

    assert str(mapped.expand_input.value["audio_url"][0]) == "/data/1.mp3"


# Labels


def labelled(
    operator: type[Any], template: str, context: dict[str, Any], *, native: bool, after: bool
) -> Any:
    """Return the label of a task as Airflow renders it after it has run the task."""
    with DAG("d", schedule=None, render_template_as_native_obj=native):
        name = dict(OPERATORS)[operator]
        task = Named(operator)(map_index_template=template, **{name: URL})
    context = {"map_index_template": template, **context}
    task.pre_execute(context)
    if after:
        context["made"] = "late"
        task.post_execute(context, None)
    ti: Any = SimpleNamespace(task=task)
    return _render_map_index(context, ti=ti, log=structlog.get_logger())


@pytest.mark.parametrize("after", [True, False], ids=["succeeded", "failed"])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(("operator", "_"), OPERATORS)
def test_a_label_is_text_whatever_its_template_gives(
    operator: type[Any], _: str, native: bool, after: bool
) -> None:
    for value in ("48213", "0", "1e5", "[1, 2]", "None", "{'a': 1}", "'quoted'", "{{ 7 }}", "é 🎤", ""):
        label = labelled(operator, "{{ value }}", {"value": value}, native=native, after=after)
        assert label == value


def test_a_label_that_cannot_be_rendered_fails_no_task() -> None:
    for template in ("{{ nowhere.at.all }}", "{{ 1 / 0 }}", "{{ unclosed", "{% no such %}"):
        assert labelled(SubmitTranscriptionOperator, template, {}, native=True, after=True) is None


def test_a_label_is_no_longer_than_airflow_stores_and_may_be_of_what_the_task_made() -> None:
    told: dict[str, Any] = {"native": True, "after": True}

    assert labelled(SubmitTranscriptionOperator, "{{ 'a' * 999 }}", {}, **told) == "a" * 250
    assert labelled(SubmitTranscriptionOperator, "{{ made }}", {}, **told) == "late"
