"""What a connection says, what it must not say, and the Test button."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from plaud_provider.api.regions import Region
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.hooks.connection import PlaudConnection
from plaud_provider.hooks.plaud import PlaudAsyncHook, PlaudHook
from tests.unit.hooks.conftest import Client, Connect

OpenClient = Callable[..., Client]


def refusal(connect: Connect, **fields: Any) -> str:
    region = fields.pop("asserted", None)
    connect(**fields)
    with pytest.raises(PlaudConfigurationError) as caught:
        PlaudHook(region=region).settings  # noqa: B018
    assert "canary" not in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["json", "uri"])
@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("", "https://openapi.plaud.eu"),
        ("https://openapi.plaud.eu", "https://openapi.plaud.eu"),
        ("openapi.plaud.eu", "https://openapi.plaud.eu"),
        ("http://127.0.0.1", "http://127.0.0.1:8080"),
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("https://gateway.example", "https://gateway.example:8443"),
        ("::1", "http://[::1]:8080"),
    ],
)
def test_a_uri_and_a_json_connection_read_alike(
    monkeypatch: pytest.MonkeyPatch, form: str, host: str, base_url: str
) -> None:
    secret = "p@ss:wörd/?#%&+= 👋"
    port = urlsplit(base_url).port
    extra = {
        "region": "eu",
        "requests_per_minute": "30",
        "budget_conn_id": "shared",
        "allowed_hosts": "other.example, gateway.example",
    }
    if form == "json":
        fields = {
            "conn_type": "plaud",
            "login": "cliënt id",
            "password": secret,
            "host": host,
            "extra": extra,
        }
        connection = json.dumps({**fields, **({"port": port} if port else {})})
    else:
        scheme, _, name = host.rpartition("://")
        name = f"[{name}]" if ":" in name else name
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in extra.items())
        credentials = f"{quote('cliënt id', safe='')}:{quote(secret, safe='')}"
        protocol = f"{scheme}://" if scheme else ""
        connection = f"plaud://{protocol}{credentials}@{name}{f':{port}' if port else ''}/?{query}"
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", connection)

    settings = PlaudHook().settings

    assert (settings.account.client_id, settings.account.secret_key) == ("cliënt id", secret)
    assert settings.account.region is Region.EU
    assert settings.account.base_url == base_url
    assert settings.requests_per_minute == 30.0
    assert settings.budget_conn_id == "shared"


def test_a_uri_connection_to_the_emulator_works(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    connection = json.loads(plaud.airflow_connection)
    secret = quote(connection["password"], safe="")
    uri = f"plaud://http://{connection['login']}:{secret}@127.0.0.1:{plaud.port}/?region=us"
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", uri)

    assert client.submit().transcription_id


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "127.0.0.1", "port": 99}, "http://127.0.0.1:99"),
        ({"host": "127.0.0.1:88", "port": 99}, "http://127.0.0.1:88"),
        ({"host": "http://127.0.0.1/base/", "port": 99}, "http://127.0.0.1:99/base"),
        ({"host": "127.0.0.1", "schema": "https"}, "https://127.0.0.1"),
        ({"host": "http://127.0.0.1", "schema": "https"}, "http://127.0.0.1"),
        ({"host": "  http://127.0.0.1:88/  "}, "http://127.0.0.1:88"),
        ({"host": "[::1]:88"}, "http://[::1]:88"),
        ({"port": 99, "schema": "https"}, "https://openapi.plaud.ai"),
    ],
)
def test_host_port_and_schema_go_together(connect: Connect, fields: dict[str, Any], base_url: str) -> None:
    connect(**fields)

    assert PlaudHook().settings.account.base_url == base_url


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"login": ""}, "login .Plaud client id. is empty"),
        ({"login": "   "}, "login .Plaud client id. is empty"),
        ({"login": None}, "login .Plaud client id. is empty"),
        ({"login": "client:canary"}, "login .* has a colon"),
        ({"password": ""}, "password .Plaud secret key. is empty"),
        ({"password": " \n"}, "password .Plaud secret key. is empty"),
        ({"extra": {"region": "uk"}}, "region: 'uk' .* use one of us, eu, jp"),
        ({"extra": "{'region': 'eu'}"}, "extra is not a JSON object"),
        ({"extra": '{"region": "eu"'}, "extra is not a JSON object"),
        ({"extra": '["eu"]'}, "extra is not a JSON object"),
        ({"extra": '"eu"'}, "extra is not a JSON object"),
        ({"extra": {"requests_per_minute": "many"}}, "requests_per_minute is 'many'"),
        ({"extra": {"requests_per_minute": 0}}, "requests_per_minute is 0"),
        ({"extra": {"requests_per_minute": -1}}, "requests_per_minute is -1"),
        ({"extra": {"requests_per_minute": "nan"}}, "requests_per_minute is 'nan'"),
        ({"extra": {"requests_per_minute": True}}, "requests_per_minute is True"),
        (
            {"asserted": "eu"},
            "region: 'eu' was asked for, but connection 'plaud_default' belongs to region 'us'",
        ),
        ({"asserted": "eu", "extra": {"region": "jp"}}, "region: 'eu' .* belongs to region 'jp'"),
        ({"asserted": "moon"}, "region: 'moon' .* use one of us, eu, jp"),
        ({"asserted": ""}, "region: ''"),
        ({"extra": {"region": "eu"}, "host": "openapi.plaud.ai"}, "host: .* belongs to region 'us'"),
        ({"host": "http://gateway.example"}, "host: .*only https"),
        ({"host": "gateway.example"}, "host: .*allowed hosts"),
        ({"host": "https://user:canary@gateway.example"}, "host: .*login and password"),
        ({"host": "https://user:canary@[::1", "port": 5}, "host: .*login and password"),
        ({"host": "gateway.example", "schema": "public"}, "host: .*public://"),
    ],
)
def test_what_is_wrong_is_named_with_its_field_before_anything_is_sent(
    connect: Connect, fields: dict[str, Any], message: str
) -> None:
    said = refusal(connect, **fields)

    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Region", "region"),
        ("regoin", "region"),
        ("extra__plaud__region", "region"),
        ("requests-per-minute", "requests_per_minute"),
        ("request_per_minute", "requests_per_minute"),
        ("extra__plaud__budget_conn_id", "budget_conn_id"),
        ("allowed_host", "allowed_hosts"),
        ("plaud_region", "region"),
    ],
)
def test_a_misspelt_extra_is_named_and_does_not_silently_mean_us(
    connect: Connect, name: str, meant: str
) -> None:
    message = refusal(connect, extra={name: "canary"})

    assert repr(name) in message
    assert repr(meant) in message


def test_extras_of_others_are_left_alone(connect: Connect) -> None:
    connect(extra={"region": "eu", "owner": "data team", "verify": True})

    assert PlaudHook().region == "eu"


@pytest.mark.parametrize("region", ["eu", "jp"])
def test_a_region_that_is_asserted_wrongly_sends_nothing(
    plaud: EmulatorServer, open_client: OpenClient, region: str
) -> None:
    with pytest.raises(PlaudConfigurationError, match="Nothing was sent"):
        open_client(region=region).submit()
    with pytest.raises(PlaudConfigurationError, match="Nothing was sent"):
        open_client(region=region).get("txn_1")

    assert plaud.ledger() == []


@pytest.mark.parametrize(
    "host", ["https://openapi.plaud.ai", "http://openapi.plaud.eu", "https://openapi.plaud.eu.evil.com"]
)
def test_an_eu_connection_to_another_host_sends_nothing(connect: Connect, client: Client, host: str) -> None:
    connect(host, extra={"region": "eu"})

    with pytest.raises(PlaudConfigurationError):
        client.submit()


def test_a_region_that_is_asserted_rightly_is_no_trouble(
    plaud: EmulatorServer, open_client: OpenClient
) -> None:
    assert open_client(region="US").submit().transcription_id


async def test_the_asynchronous_hook_refuses_a_wrong_connection_when_it_is_entered(connect: Connect) -> None:
    connect(login="")

    with pytest.raises(PlaudConfigurationError, match="login"):
        async with PlaudAsyncHook():
            pytest.fail("it was entered")


@pytest.mark.parametrize(
    "hosts",
    [
        "a.example,gateway.example",
        "a.example gateway.example",
        ["a.example", "gateway.example"],
        "GATEWAY.example",
    ],
)
def test_allowed_hosts_are_a_list_or_a_line(connect: Connect, hosts: object) -> None:
    connect("gateway.example", extra={"allowed_hosts": hosts})

    assert PlaudHook().settings.account.base_url == "https://gateway.example"


@pytest.mark.parametrize(
    "extra",
    [
        *(None, {}, "", {"region": None}, {"region": ""}, {"requests_per_minute": None}),
        *({"budget_conn_id": None}, {"budget_conn_id": " "}),
    ],
)
def test_what_is_left_out_has_its_default(connect: Connect, extra: object) -> None:
    connect(extra=extra)
    hook = PlaudHook()

    assert hook.region == "us"
    assert hook.client_id == "client"
    assert hook.settings.requests_per_minute == 60.0
    assert hook.settings.budget_conn_id is None


# Without the hook


def test_a_connection_is_looked_up_when_it_is_asked_for_something_and_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    plaud = PlaudConnection(region="eu")
    connect(extra={"region": "eu"})

    assert (plaud.region, plaud.client_id) == ("eu", "client")

    monkeypatch.delenv("AIRFLOW_CONN_PLAUD_DEFAULT")
    assert PlaudHook(settings=plaud.settings).settings is plaud.settings
    with pytest.raises(PlaudConfigurationError, match="'us' was asked for"):
        PlaudHook(region="us", settings=plaud.settings).settings  # noqa: B018


def test_it_is_refused_as_by_the_hook(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal(connect, extra={"region": "us"}, asserted="eu")
    with pytest.raises(PlaudConfigurationError, match=f"^{re.escape(told)}$"):
        PlaudConnection(region="eu").region  # noqa: B018

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    told = refusal(connect)
    with pytest.raises(PlaudConfigurationError, match=f"^{re.escape(told)}$"):
        PlaudConnection().client_id  # noqa: B018


def test_a_connection_s_values_are_not_masked_in_every_log(connect: Connect) -> None:
    """Airflow masks every value of an extra that is read its way; the name of a gateway is no secret."""
    from airflow.sdk.log import redact

    connect("gateway.example", extra={"allowed_hosts": "gateway.example"})
    PlaudHook().settings  # noqa: B018

    assert redact("could not reach gateway.example") == "could not reach gateway.example"


# Webhooks

WEBHOOKS = {
    "webhook_base_url": "https://airflow.example/team/",
    "webhook_secret": " whsec-canary-a\nwhsec-canary-b ",
    "webhook_path": "s3://aws_default@work/webhooks/",
}


def test_a_connection_says_where_plaud_is_to_call(connect: Connect) -> None:
    connect(extra=WEBHOOKS)
    settings = PlaudHook().settings

    assert settings.webhooks is not None
    assert settings.webhooks.secrets == ("whsec-canary-a", "whsec-canary-b")
    assert settings.webhook_url(None) == "https://airflow.example/team/plaud/webhooks/plaud_default"
    assert settings.webhook_url("https://me.example/") == "https://me.example/"
    assert "canary" not in repr(settings)


def test_without_webhooks_nothing_is_called(connect: Connect) -> None:
    connect(extra=dict.fromkeys(WEBHOOKS, ""))

    assert PlaudHook().settings.webhooks is None
    assert PlaudHook().settings.webhook_url(None) is None


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_part_of_the_webhook_s_fields_is_refused_by_name(connect: Connect, name: str) -> None:
    assert f"{name} is empty" in refusal(connect, extra={**WEBHOOKS, name: None})


@pytest.mark.parametrize(
    "base",
    ["http://airflow.example", "airflow.example", "https://user@airflow.example", "https://a.example?x=1"],
)
def test_a_base_url_that_plaud_could_not_call_is_refused(connect: Connect, base: str) -> None:
    assert "webhook_base_url is not an https:// URL" in refusal(
        connect, extra={**WEBHOOKS, "webhook_base_url": base}
    )
