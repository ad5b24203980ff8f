"""Where the pages are, below Airflow's own address."""

from __future__ import annotations

from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import conf

#: Where the application is mounted; pages and the receiver of webhooks are below it.
PREFIX = "/plaud"


def pages_path() -> str:
    """Return the path of the pages: below that of ``[api] base_url``, if Airflow is served below one."""
    base = urlsplit(str(conf.get("api", "base_url", fallback=""))).path
    return f"{base.rstrip('/')}{PREFIX}"
