"""
Parse a DAG file in a process of its own, without network, connections or a database, and say what it took.

Prints one JSON object: ``imported`` (modules that the file adds to what any DAG file imports), ``forbidden``
(what it tried to reach), ``warned`` (deprecations raised from this repository), ``errors`` and ``dag_ids``.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
OUTSIDE = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "sqlite3.connect")
#: What any DAG file has loaded before its first own line counts.
ORDINARY_DAG = """
from airflow.sdk import DAG, Param, task

with DAG("ordinary", schedule=None, params={"name": Param("", type="string")}):

    @task
    def nothing(): ...

    nothing()
"""


def main(file: str) -> None:
    forbidden: list[str] = []

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in OUTSIDE:
            forbidden.append(f"{event} {arguments[-1]!r}")
            raise RuntimeError(f"{event} while a DAG file is parsed")

    with tempfile.TemporaryDirectory() as folder:
        ordinary = Path(folder, "ordinary.py")
        ordinary.write_text(ORDINARY_DAG)
        runpy.run_path(str(ordinary))
    before = set(sys.modules)
    sys.addaudithook(refuse)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        runpy.run_path(file)
    imported = sorted(set(sys.modules) - before)

    # As Airflow does it, with its checks.
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(file)
    report = {
        "imported": imported,
        "forbidden": forbidden,
        "warned": [str(w.message) for w in raised if Path(w.filename).is_relative_to(REPOSITORY)],
        "errors": bag.import_errors,
        "dag_ids": sorted(bag.dags),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
