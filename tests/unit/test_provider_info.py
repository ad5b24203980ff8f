"""What Airflow discovers. A mistake here stops the discovery of every provider, not of this one alone."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from airflow.sdk import BaseOperator, BaseSensorOperator
from airflow.triggers.base import BaseTrigger
from packaging.utils import canonicalize_name

from plaud_provider.get_provider_info import get_provider_info

INFO = get_provider_info()
#: What each kind of class derives from, and the method that makes it one.
KINDS: dict[str, tuple[type, str]] = {
    "operators": (BaseOperator, "execute"),
    "sensors": (BaseSensorOperator, "execute"),
    "triggers": (BaseTrigger, "run"),
}
SCHEMAS = Path(airflow.__file__).parent


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SCHEMAS / name).read_text())
    return loaded


def test_it_is_valid_by_the_schema_that_airflow_checks_at_run_time() -> None:
    jsonschema.validate(INFO, schema("provider_info.schema.json"))


@pytest.mark.parametrize("section", sorted(set(INFO) - {"package-name", "name", "description"}))
def test_each_section_is_valid_by_the_schema_of_provider_yaml(section: str) -> None:
    whole = schema("provider.yaml.schema.json")
    part = {**whole["properties"][section], "definitions": whole.get("definitions", {})}

    jsonschema.validate(INFO[section], part)


def test_the_package_name_is_the_distribution_s_canonical_name() -> None:
    [entry_point] = [
        found
        for found in entry_points(group="apache_airflow_provider")
        if found.module.startswith("plaud_provider.")
    ]

    assert entry_point.dist is not None
    assert INFO["package-name"] == canonicalize_name(entry_point.dist.name)
    assert entry_point.load()() == INFO


def names(value: object, key: str = "") -> list[str]:
    """Every module and class that is named anywhere."""
    if isinstance(value, dict):
        return [name for inner, item in value.items() for name in names(item, inner)]
    if isinstance(value, list):
        return [name for item in value for name in names(item, key)]
    return [value] if isinstance(value, str) and value.startswith("plaud_provider.") else []


@pytest.mark.parametrize("name", sorted(set(names(INFO))))
def test_every_module_and_class_that_is_named_exists(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_every_module_of_a_kind_is_named() -> None:
    package = Path(sys.modules["plaud_provider"].__file__ or "").parent
    for kind, (base, method) in KINDS.items():
        modules = {f"plaud_provider.{kind}.{path.stem}" for path in (package / kind).glob("[!_]*.py")}
        with_one = {
            name
            for name in modules
            for found in vars(importlib.import_module(name)).values()
            # Of a base class that is not used by itself the method is missing.
            if isinstance(found, type) and issubclass(found, base) and found.__module__ == name
            if method in vars(found)
        }
        assert set(names(INFO[kind])) == with_one


def test_integrations_that_are_named_are_declared() -> None:
    declared = {integration["integration-name"] for integration in INFO["integrations"]}
    used = {
        value
        for section in INFO.values()
        if isinstance(section, list)
        for item in section
        if isinstance(item, dict)
        for key, value in item.items()
        if key.endswith("integration-name")
    }

    assert used == declared


def test_the_region_is_a_drop_down_with_a_default() -> None:
    [connection_type] = INFO["connection-types"]

    region = connection_type["conn-fields"]["region"]["schema"]
    assert region == {"type": "string", "enum": ["us", "eu", "jp"], "default": "us"}


def test_the_hook_and_the_form_agree_about_the_connection_type() -> None:
    from plaud_provider.hooks.plaud import PlaudHook

    [connection_type] = INFO["connection-types"]
    assert connection_type["connection-type"] == PlaudHook.conn_type
    assert connection_type["hook-name"] == PlaudHook.hook_name


@pytest.fixture(scope="module")
def discovered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh Airflow finds, asked for in a process of its own."""
    script = (
        "import json\n"
        "from airflow.providers_manager import ProvidersManager\n"
        "manager = ProvidersManager()\n"
        "hook = manager.hooks['plaud']\n"
        "print(json.dumps({\n"
        "    'version': manager.providers['airflow-provider-plaud'].version,\n"
        "    'hook': [hook.hook_class_name, hook.connection_id_attribute_name, hook.hook_name],\n"
        "    'fields': [name for name in manager.connection_form_widgets if 'plaud' in name],\n"
        "    'behaviour': manager.field_behaviours['plaud'],\n"
        "}, default=str))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:plaud_provider", "-c", script],
        env=own_environment(tmp_path_factory.mktemp("airflow")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def own_environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(home), "HOME": str(home)}


def test_airflow_discovers_the_connection_type_and_its_hook(discovered: dict[str, Any]) -> None:
    assert discovered["hook"] == ["plaud_provider.hooks.plaud.PlaudHook", "plaud_conn_id", "Plaud"]


def test_airflow_discovers_the_form_with_its_fields(discovered: dict[str, Any]) -> None:
    assert sorted(discovered["fields"]) == [
        "extra__plaud__allowed_hosts",
        "extra__plaud__api",
        "extra__plaud__api_key",
        "extra__plaud__budget_conn_id",
        "extra__plaud__price_per_hour",
        "extra__plaud__region",
        "extra__plaud__requests_per_minute",
        "extra__plaud__webhook_base_url",
        "extra__plaud__webhook_path",
        "extra__plaud__webhook_secret",
    ]
    assert discovered["behaviour"]["relabeling"]["password"] == "Secret key"


def test_airflow_s_command_line_shows_the_hook(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", "hooks", "--output", "json"],
        env=own_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "plaud_provider.hooks.plaud.PlaudHook" in done.stdout


def test_the_plugin_is_found_by_its_entry_point_alone() -> None:
    # In the metadata as well it would be loaded twice, which Airflow reports as an error.
    assert "plugins" not in INFO


def test_pages_read_the_options_that_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    from plaud_provider.submit.summary import configured_price
    from plaud_provider.views import settings

    options = INFO["config"]["plaud"]["options"]
    for name in options:
        monkeypatch.delenv(f"AIRFLOW__PLAUD__{name.upper()}", raising=False)

    place = settings.configured_place()

    assert place.plaud_conn_id == options["plaud_conn_id"]["default"]
    assert place.sql_conn_id == place.ledger_conn_id == options["sql_conn_id"]["default"]
    assert place.transcripts_table == options["transcripts_table"]["default"]
    assert (settings.shows_text(), configured_price()) == (True, None)
    monkeypatch.setenv("AIRFLOW__PLAUD__LEDGER_CONN_ID", "ledger")
    monkeypatch.setenv("AIRFLOW__PLAUD__PRICE_PER_HOUR", "0.3 EUR")
    assert settings.configured_place().ledger_conn_id == "ledger"
    assert configured_price() == (0.3, "EUR")


def test_options_that_are_read_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    from plaud_provider.submit.summary import configured_price
    from plaud_provider.views import settings

    asked = set()
    real = settings.conf.get

    def get(section: str, name: str, *args: Any, **kwargs: Any) -> Any:
        if section == "plaud":
            asked.add(name)
        return real(section, name, *args, **kwargs)

    monkeypatch.setattr(settings.conf, "get", get)
    settings.configured_place()
    settings.shows_text()
    configured_price()

    assert asked == INFO["config"]["plaud"]["options"].keys()
