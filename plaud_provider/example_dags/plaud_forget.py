"""
Remove the text of transcriptions for good: by age, by recording or by folder.

Trigger it as it is, and **forget** says what would be removed; tick *Remove* to remove it. Rows of both
tables go, and answers that tasks keep at `results_path`. The ledger keeps that a recording was transcribed,
without its text, so that no run pays for it or lands it again.

What is given holds together: with an age and a folder, what is old *and* in that folder is removed. The
recordings themselves stay, and so does what Plaud and backups keep; see docs/privacy.md.

Give the DAG a schedule (in a copy of this file, with *Remove* on and an age) to keep transcripts for so many
days and no longer. One Airflow variable is read if it is there: `plaud_results_path`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from plaud_provider.operators.purge_transcriptions import PurgeTranscriptionsOperator
from plaud_provider.task_groups.form import LAKE, lake_params, results_folder

with DAG(
    dag_id="plaud_forget",
    description="Transcripts out: by age, recording or folder",
    doc_md=__doc__,
    schedule=None,
    tags=["plaud", "privacy"],
    render_template_as_native_obj=True,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={
        "older_than_days": Param(
            None,
            type=["null", "number"],
            minimum=0,
            maximum=1_000_000,
            title="Older than days",
            description="Submitted more than so many days ago; empty: of any age",
        ),
        "recordings": Param(
            [],
            type="array",
            items={"type": "string"},
            title="Recordings",
            description="References as in audio_uri, or transcription ids, one a line; empty: any",
        ),
        "folder": Param(
            None,
            type=["null", "string"],
            title="Folder",
            description="Recordings under s3://bucket/folder/, gs://, abfs:// or a local folder; empty: any",
        ),
        "remove": Param(
            False,
            type="boolean",
            title="Remove",
            description="Off: only say what would be removed. What is removed cannot be brought back",
        ),
        "sql_conn_id": Param("warehouse_default", type=["null", "string"], title="Warehouse connection"),
        **lake_params(
            "The folder that transcripts landed in, beside the warehouse or, with no warehouse "
            "connection, instead of it; empty: none"
        ),
        "ledger_conn_id": Param(
            None,
            type=["null", "string"],
            title="Ledger connection",
            description="The ledger that the recordings were submitted with; empty: the warehouse",
        ),
    },
):
    PurgeTranscriptionsOperator(
        task_id="forget",
        older_than_days="{{ params.older_than_days }}",
        recordings="{{ params.recordings }}",
        path="{{ params.folder }}",
        plan_only="{{ not params.remove }}",
        results_path=results_folder(),
        sql_conn_id="{{ params.sql_conn_id }}",
        **LAKE,
        ledger_conn_id="{{ params.ledger_conn_id or params.sql_conn_id }}",
    )
