"""The connection type in Admin > Connections: its form, what it stores, and its Test button."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from airflow.sdk import Connection
from playwright.sync_api import Page, expect

from plaud_provider.hooks.connection import read_connection
from tests.ui.conftest import Playground
from tests.ui.screens import (
    add_connection,
    edit_connection,
    fill,
    labels,
    open_extra_fields,
    options,
    press_test,
    save,
)

#: Fields of what not everybody has.
LEFT_EMPTY = ("api_key", "webhook_base_url", "webhook_path", "webhook_secret")
EXTRA_FIELDS = (
    "element_requests_per_minute",
    "element_budget_conn_id",
    "element_allowed_hosts",
    "element_price_per_hour",
)


def stored(playground: Playground, conn_id: str) -> dict[str, Any]:
    connection: dict[str, Any] = playground.api.get(f"/connections/{conn_id}")
    return {**connection, "extra": json.loads(connection["extra"])}


def as_the_hook_gets_it(connection: dict[str, Any]) -> Connection:
    names = ("conn_type", "host", "login", "port")
    return Connection(
        conn_id="from_the_form",
        password="any-secret-key",
        extra=json.dumps(connection["extra"]),
        **{name: connection[name] for name in names},
    )


def test_it_asks_for_what_plaud_needs_and_no_more(page: Page) -> None:
    form = add_connection(page)

    expect(form.get_by_label("Base URL")).to_have_attribute("placeholder", "leave empty for the region's own")
    expect(form.get_by_label("Secret key")).to_have_attribute("type", "password")
    # The port is there for Airflow's sake: see docs/connection.md.
    expect(form.get_by_label("Port")).to_have_attribute("placeholder", re.compile("^443 .*cannot test"))
    assert labels(form) == [
        "Connection ID", "Connection Type", "Description", "Base URL", "Client ID", "Secret key", "Port"
    ]  # fmt: skip

    open_extra_fields(form)
    assert labels(form)[2:] == [
        "Region",
        "API",
        "API key",
        "Requests per minute",
        "Budget connection",
        "Webhook base URL",
        "Webhook secret",
        "Webhook folder",
        "Allowed hosts",
        "Price per hour",
    ]
    expect(form.locator("[name=element_region]")).to_have_value("us")
    assert options(page, form.get_by_label("Region")) == ["us", "eu", "jp"]
    expect(form.locator("[name=element_requests_per_minute]")).to_have_value("60")
    expect(form.locator("[name=element_budget_conn_id]")).to_have_value("")
    expect(form.locator("[name=element_allowed_hosts]")).to_have_value("")


def test_the_test_button_says_where_the_credentials_are_good_and_how_long(
    page: Page, playground: Playground, screenshot: Callable[..., None]
) -> None:
    form = add_connection(page)
    fill(form, {"connection_id": "plaud_added", **playground.plaud})
    screenshot(page, "connection-form", height=930)
    open_extra_fields(form)
    screenshot(page, "connection-region", height=930)
    save(page, form)
    # Not those whose paths are of this machine.
    page.get_by_placeholder("Search Connections").fill("plaud")
    expect(page.get_by_text("warehouse_default")).to_be_hidden()

    message = press_test(page, "plaud_added")

    address = f"{playground.plaud['host']}:{playground.plaud['port']}"
    expect(message).to_contain_text("Successful")
    expect(message).to_contain_text(f"at {address} (region 'us'); the token is valid for 24.0 hours")
    screenshot(page, "connection-test", height=640)


def test_the_test_button_says_what_to_do_about_a_wrong_secret(page: Page, playground: Playground) -> None:
    form = add_connection(page)
    wrong = {**playground.plaud, "password": "wrong-secret-key"}
    fill(form, {"connection_id": "plaud_wrong", **wrong})
    save(page, form)

    message = press_test(page, "plaud_wrong")

    expect(message).to_contain_text("Failed")
    expect(message).to_contain_text("Plaud refused client id 'demo-client' and its secret key")
    expect(message).to_contain_text("Check client id (login), secret key (password) and region")
    expect(message).not_to_contain_text("wrong-secret-key")


def test_the_secret_key_cannot_be_read_back(page: Page, playground: Playground) -> None:
    form = edit_connection(page, "plaud_default")
    secret = form.get_by_label("Secret key")
    expect(secret).to_have_value("***")

    form.get_by_role("button", name="Show value").click()

    expect(secret).to_have_attribute("type", "text")
    expect(secret).to_have_value("***")
    assert playground.plaud["password"] not in page.content()


def test_the_hook_reads_what_the_form_stores(page: Page, playground: Playground) -> None:
    form = add_connection(page)
    fill(form, {"connection_id": "plaud_eu", "login": "client", "password": "key", "port": "443"})
    fill(form, {"host": "https://gateway.example"})
    open_extra_fields(form)
    options(page, form.get_by_label("Region"))
    page.get_by_role("option", name="eu").click()
    fill(form, {"element_requests_per_minute": "120"})
    fill(form, {"element_budget_conn_id": "warehouse"})
    fill(form, {"element_allowed_hosts": "other.example, gateway.example"})
    fill(form, {"element_price_per_hour": "0.28 USD"})
    save(page, form)

    connection = stored(playground, "plaud_eu")
    settings = read_connection(as_the_hook_gets_it(connection), region="eu")

    assert connection["extra"] == {
        "region": "eu",
        "requests_per_minute": 120,
        "budget_conn_id": "warehouse",
        "allowed_hosts": "other.example, gateway.example",
        "price_per_hour": "0.28 USD",
        "api": "openapi",
        **dict.fromkeys(LEFT_EMPTY),
    }
    assert settings.account.base_url == "https://gateway.example"
    assert (settings.requests_per_minute, settings.budget_conn_id) == (120, "warehouse")


def test_the_hook_takes_what_was_left_empty_for_its_default(page: Page, playground: Playground) -> None:
    form = add_connection(page)
    fill(form, {"connection_id": "plaud_plain", "login": "client", "password": "key"})
    open_extra_fields(form)
    fill(form, dict.fromkeys(EXTRA_FIELDS, ""))
    save(page, form)

    connection = stored(playground, "plaud_plain")
    settings = read_connection(as_the_hook_gets_it(connection), region="us")

    assert connection["extra"] == {
        "region": "us",
        "requests_per_minute": None,
        "budget_conn_id": None,
        "allowed_hosts": None,
        "price_per_hour": None,
        "api": "openapi",
        **dict.fromkeys(LEFT_EMPTY),
    }
    assert settings.account.base_url == "https://openapi.plaud.ai"
    assert (settings.requests_per_minute, settings.budget_conn_id) == (60, None)
