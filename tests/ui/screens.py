"""What a person does in Airflow's screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect

DAG_ID = "plaud_transcribe_recording"


def add_connection(page: Page) -> Locator:
    """Open the form of a new connection of type Plaud."""
    page.goto("/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.get_by_role("combobox").first.click()
    page.get_by_role("option", name="Plaud", exact=True).click()
    return form


def edit_connection(page: Page, conn_id: str) -> Locator:
    """Open the form of a connection that there is."""
    page.goto("/connections")
    _row(page, conn_id).get_by_role("button", name="Edit Connection").click()
    return page.get_by_role("dialog")


def open_extra_fields(form: Locator) -> None:
    """Unfold what is ours in a connection's form."""
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    expect(form.get_by_text("Requests per minute")).to_be_visible()
    # The other fields fold away.
    expect(form.locator("[name=description]")).to_be_hidden()


def fill(form: Locator, values: Mapping[str, str]) -> None:
    """Type into fields, by their names in the HTML."""
    for name, value in values.items():
        field = form.locator(f"[name={name}]")
        field.fill(value)
        # Some take over what was typed only then.
        field.press("Tab")


def labels(form: Locator) -> list[str]:
    """Return the labels of a form's fields, from top to bottom."""
    texts = [text.removesuffix("*").strip() for text in form.locator("label:visible").all_inner_texts()]
    # A switch is a label of its own, without text.
    return [text for text in texts if text]


def options(page: Page, field: Locator) -> list[str]:
    """Return what a drop-down offers; it stays open."""
    field.click()
    expect(page.get_by_role("option").first).to_be_visible()
    return page.get_by_role("option").all_inner_texts()


def save(page: Page, form: Locator) -> None:
    """Save a connection; what is left is the list of all."""
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()


def press_test(page: Page, conn_id: str) -> Locator:
    """Press the Test button of a connection in the list, and return the message that appears."""
    _row(page, conn_id).get_by_role("button", name="Test Connection").click()
    return page.locator("[data-scope=toast][data-part=root]").filter(has_text="Test Connection")


def open_trigger_form(page: Page, dag_id: str = DAG_ID) -> Locator:
    page.goto(f"/dags/{dag_id}")
    page.get_by_role("button", name="Trigger Dag").first.click()
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Run Parameters")).to_be_visible()
    return form


def trigger(page: Page, form: Locator) -> str:
    """Start the run of a form that is filled in, and return its id."""
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        form.get_by_test_id("trigger-dag-submit").click()
    assert answer.value.ok, answer.value.text()
    return str(answer.value.json()["dag_run_id"])


def open_run(page: Page, run_id: str, dag_id: str = DAG_ID) -> None:
    page.goto(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}")


def open_task(page: Page, run_id: str, task_id: str, tab: str = "") -> None:
    """Open a page of a task: its log, or the tab of that name in the address."""
    page.goto(f"/dags/{DAG_ID}/runs/{quote(run_id, safe='')}/tasks/{task_id}{tab and f'/{tab}'}")


def xcom(page: Page, run_id: str, task_id: str, *, beside: Sequence[str] = ()) -> Any:
    """
    Return the value that the XCom page of a task was given to show; the page itself folds it.

    :param beside: Keys of what else the task has pushed.
    """
    with page.expect_response(lambda response: "/xcomEntries/return_value" in response.url) as answer:
        open_task(page, run_id, task_id, "xcom")
    expect(page.get_by_test_id("table-cell-key")).to_have_text([*beside, "return_value"])
    return answer.value.json()["value"]


def _row(page: Page, conn_id: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=conn_id, exact=True))
