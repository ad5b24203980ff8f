"""What several DAGs have in common: fields of their forms, what reads them, and where results are kept."""

from __future__ import annotations

import os

from airflow.sdk import Param

from plaud_provider.api.arguments import LAKE_ARGUMENTS

_SECTION = "Options of the API embedded"
_MODELS = ("plaud-fast-whisper", "plaud-omni-3", "azure-fast-transcribe")
#: What they are as arguments: how to transcribe, and whether to upload.
TERMS = {
    name: f"{{{{ params.{name} }}}}" for name in ("model", "hotwords", "decode_silence", "detection_level")
}
UPLOAD = "{{ params.upload }}"
#: A lake to land in, or that was landed in, as arguments.
LAKE = {name: f"{{{{ params.{name} }}}}" for name in LAKE_ARGUMENTS}


def results_folder() -> str:
    """Return, as a template, where tasks keep results: what an Airflow variable names, else the default."""
    return f"{{{{ var.value.get('plaud_results_path', '{default_results_folder()}') }}}}"


def default_results_folder() -> str:
    """Return the folder in Airflow's home, which only one host has."""
    return os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "plaud_results")


def lake_params(
    description: str = "Folder such as s3://connection@bucket/lake/, beside the warehouse or, with no "
    "warehouse connection, instead of it; empty: none",
) -> dict[str, Param]:
    """
    Return the fields of a lake.

    :param description: What is said of its folder.
    """
    return {
        "lake_path": Param(None, type=["null", "string"], title="Lake", description=description),
        "lake_format": Param(
            "iceberg", type="string", enum=["iceberg", "delta", "parquet"], title="Format of the lake"
        ),
        "lake_catalog_conn_id": Param(
            None,
            type=["null", "string"],
            title="Catalog connection of the lake",
            description="For Iceberg in object storage: REST, Glue or SQL",
        ),
    }


def chunk_size_param() -> Param:
    """Return the field of how many recordings a chunk has."""
    return Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=1000,
        title="Recordings per chunk",
        description="Empty: as the quota has it, 200 at 60 requests a minute, up to 1,000",
    )


def option_params() -> dict[str, Param]:
    """
    Return the fields, in a section of their own.

    Left as they are, they ask for nothing that the API ``openapi`` does not have.
    """
    return {
        "model": Param(
            None,
            type=["null", "string"],
            enum=[None, *_MODELS],
            values_display={"null": "Plaud's choice"},
            title="Model",
            description="Of speech recognition",
            section=_SECTION,
        ),
        "hotwords": Param(
            [],
            type="array",
            items={"type": "string", "minLength": 1},
            title="Hotwords",
            description="Words that are likely to be said, such as names, one a line",
            section=_SECTION,
        ),
        "decode_silence": Param(
            False,
            type="boolean",
            title="Silence, too",
            description="Transcribe what is taken for silence as well",
            section=_SECTION,
        ),
        "detection_level": Param(
            None,
            type=["null", "string"],
            enum=[None, "segment", "chapter"],
            values_display={"null": "Plaud's choice", "segment": "each segment", "chapter": "each chapter"},
            title="Detect the language of",
            description="If no language is named",
            section=_SECTION,
        ),
        "upload": Param(
            "auto",
            type="string",
            enum=["auto", "always", "never"],
            values_display={"auto": "what Plaud cannot fetch", "always": "all", "never": "nothing"},
            title="Upload",
            description="To Plaud's own storage, before it is submitted",
            section=_SECTION,
        ),
    }
