"""What Airflow discovers of this package: its classes and its connection form."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Plaud"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, in the shape of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-plaud",
        "name": "Plaud",
        "description": "Turn audio recordings into warehouse rows through the Plaud partner transcription "
        "API.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://docs.plaud.ai/",
                "logo": "/docs/images/logo.svg",
                "how-to-guide": [
                    "/docs/start.md",
                    "/docs/connection.md",
                    "/docs/submit.md",
                    "/docs/wait.md",
                    "/docs/archive.md",
                    "/docs/hook.md",
                    "/docs/emulator.md",
                ],
                "tags": ["service"],
            },
            {
                "integration-name": "SQL",
                "external-doc-url": "https://www.sqlalchemy.org/",
                "tags": ["software"],
            },
        ],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": ["plaud_provider.hooks.plaud"]}],
        "operators": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    "plaud_provider.operators.transcription",
                    "plaud_provider.operators.list_recordings",
                    "plaud_provider.operators.submit_recordings",
                    "plaud_provider.operators.plan_recordings",
                    "plaud_provider.operators.land_recordings",
                    "plaud_provider.operators.report_recordings",
                    "plaud_provider.operators.purge_transcriptions",
                    "plaud_provider.operators.approve_recordings",
                    "plaud_provider.operators.export_transcription",
                ],
            }
        ],
        "sensors": [
            {"integration-name": _INTEGRATION, "python-modules": ["plaud_provider.sensors.transcription"]}
        ],
        "triggers": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    "plaud_provider.triggers.transcription",
                    "plaud_provider.triggers.new_recordings",
                ],
            }
        ],
        "transfers": [
            {
                "source-integration-name": _INTEGRATION,
                "target-integration-name": "SQL",
                "how-to-guide": "/docs/load.md",
                "python-module": "plaud_provider.transfers.transcription_to_sql",
            }
        ],
        "connection-types": [_connection_type()],
        "config": {"plaud": {"description": "Plaud's pages in Airflow's UI.", "options": _options()}},
    }


def _options() -> dict[str, Any]:
    def option(kind: str, default: str | None, example: str | None, description: str) -> dict[str, Any]:
        return {
            "description": description,
            "version_added": "0.1.0",
            "type": kind,
            "example": example,
            "default": default,
        }

    return {
        "sql_conn_id": option(
            "string",
            "warehouse_default",
            None,
            "Connection of the warehouse that pages read, unless a run's own tasks name another.",
        ),
        "schema": option("string", None, "calls", "Schema of its table; the connection's own if left out."),
        "transcripts_table": option(
            "string", "plaud_transcripts", None, "Its table of transcripts, likewise."
        ),
        "ledger_conn_id": option(
            "string", None, "ledger", "Connection of the ledger; that of the warehouse if left out."
        ),
        "plaud_conn_id": option(
            "string",
            "plaud_default",
            "plaud_eu",
            "Connection of the client whose quota is shown, unless a run's own tasks name another.",
        ),
        "show_transcripts": option(
            "boolean",
            "True",
            None,
            "Whether pages and downloads have what was said; if not, they have numbers, for everybody.",
        ),
        "price_per_hour": option(
            "string",
            None,
            "0.28 USD",
            "What Plaud bills for an hour of audio, unless the task or its connection says so; prices are "
            "shown if it is set.",
        ),
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "plaud",
        "hook-class-name": "plaud_provider.hooks.plaud.PlaudHook",
        "hook-name": "Plaud",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "extra"],
            "relabeling": {"login": "Client ID", "password": "Secret key", "host": "Base URL"},
            "placeholders": {
                "host": "leave empty for the region's own",
                # The Test button of these versions refuses a connection without one (apache/airflow#73298).
                "port": "443 (Airflow 3.3.1 and 3.3.2 cannot test a connection without a port)",
            },
        },
        "conn-fields": {
            "region": {
                "label": "Region",
                "schema": {"type": "string", "enum": ["us", "eu", "jp"], "default": "us"},
                "description": "The region that the credentials belong to. Requests never reach another "
                "region.",
            },
            "api": {
                "label": "API",
                "schema": {"type": "string", "enum": ["openapi", "embedded"], "default": "openapi"},
                "description": "Which of Plaud's APIs the client is for: openapi (openapi.plaud.…) or "
                "embedded (platform-….plaud.ai). Plaud's portal says which; see docs/dialects.md.",
            },
            "api_key": {
                "label": "API key",
                "schema": {"type": ["string", "null"], "format": "password"},
                "description": "The client's API key, which is not its secret key; for the API embedded.",
            },
            "requests_per_minute": {
                "label": "Requests per minute",
                "schema": {"type": ["integer", "null"], "minimum": 1, "default": 60},
                "description": "Your client's limit of submit and result calls together.",
            },
            "budget_conn_id": {
                "label": "Budget connection",
                "schema": {"type": ["string", "null"]},
                "description": "Id of a PostgreSQL connection through which several hosts share that limit.",
            },
            "webhook_base_url": {
                "label": "Webhook base URL",
                "schema": {"type": ["string", "null"]},
                "description": "https:// URL from which Plaud reaches this Airflow's API server, so that it "
                "calls when a transcription is final.",
            },
            "webhook_secret": {
                "label": "Webhook secret",
                "schema": {"type": ["string", "null"], "format": "password"},
                "description": "What Plaud signs its calls with; while you change it, both with a blank "
                "between.",
            },
            "webhook_path": {
                "label": "Webhook folder",
                "schema": {"type": ["string", "null"]},
                "description": "Folder that API servers and triggerers share, such as "
                "s3://aws_default@plaud-work/webhooks/; calls leave an empty file there.",
            },
            "allowed_hosts": {
                "label": "Allowed hosts",
                "schema": {"type": ["string", "null"]},
                "description": "Exact names of private gateways that the base URL may point to, with commas "
                "between.",
            },
            "price_per_hour": {
                "label": "Price per hour",
                "schema": {"type": ["string", "null"]},
                "description": "What Plaud asks you for an hour of audio, as in 0.28 USD: plans and reports "
                "then say what they cost.",
            },
        },
    }
