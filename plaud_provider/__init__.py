"""Apache Airflow provider for the Plaud partner transcription API."""

from __future__ import annotations

__version__ = "0.1.0"
