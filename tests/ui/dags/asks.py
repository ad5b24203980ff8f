"""An archive whose runs ask a person before they pay."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from plaud_provider.task_groups.archive import transcribe_archive

with DAG("archive_that_asks", schedule=None, params={"archive": Param(type="string")}):
    transcribe_archive(
        "{{ params.archive }}",
        results_path="{{ var.value.plaud_results_path }}",
        public_urls="{{ var.value.plaud_public_urls }}",
        approve_above_hours=0.001,
        price_per_hour="100 USD",
        poke_interval=2,
    )
