"""From an Airflow connection to the options of Rust's object_store, which delta-rs opens storages with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plaud_provider.warehouse.loaders.lake import storage_path

if TYPE_CHECKING:
    from plaud_provider.warehouse.lake import Lake


def storage_options(lake: Lake) -> dict[str, str]:
    """
    Return how a lake's storage is opened; empty for a local one, and for the environment's own credentials.

    Temporary credentials end, so ask anew for each commit.

    :param lake: The lake.
    """
    if lake.is_local or lake.conn_id is None:
        return {}
    scheme = lake.path.partition("://")[0]
    if scheme == "s3":
        return _s3(lake.conn_id)
    if scheme == "gs":
        return _gcs(lake.conn_id)
    file_system = storage_path(lake).fs
    names = ("account_name", "account_key", "sas_token", "tenant_id", "client_id", "client_secret")
    found = {f"azure_storage_{name}": getattr(file_system, name, None) for name in names}
    return {name: str(value) for name, value in found.items() if value}


def _s3(conn_id: str) -> dict[str, str]:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    hook = S3Hook(aws_conn_id=conn_id)
    keys = hook.get_credentials(region_name=hook.conn_region_name)
    endpoint = hook.conn_config.get_service_endpoint_url("s3")
    found = {
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "aws_session_token": keys.token,
        "aws_region": hook.conn_region_name,
        "aws_endpoint_url": endpoint,
        "aws_allow_http": "true" if endpoint and endpoint.startswith("http://") else None,
    }
    return {name: value for name, value in found.items() if value}


def _gcs(conn_id: str) -> dict[str, str]:
    import json

    from plaud_provider.database.connections import look_up

    extra = look_up(conn_id, parameter="lake_path").extra_dejson
    if key := extra.get("keyfile_dict"):
        return {"google_service_account_key": key if isinstance(key, str) else json.dumps(key)}
    return {"google_service_account": extra["key_path"]} if extra.get("key_path") else {}
