"""What a ledger knows of landings, and what it learns from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plaud_provider.api.models import Status

if TYPE_CHECKING:
    import sqlalchemy as sa

    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.rows import Landing

log = logging.getLogger(__name__)


def with_origins(
    landings: Sequence[Landing], ledger: Ledger, connection: sa.Connection | None = None
) -> list[Landing]:
    """
    Return landings with what the ledger knows of their recordings and they do not.

    What is purged is left out: whoever still had its text must not bring it back.

    :param landings: Landings.
    :param ledger: The ledger.
    :param connection: Connection, in the transaction to look in; ``None`` for one of its own.
    """
    origins = {
        (region, known): entry
        for region, ids in _by_region(landings).items()
        for known, entry in ledger.origins(ids, region=region, connection=connection).items()
    }
    completed = []
    for landing in landings:
        origin = origins.get((landing.region, landing.transcription_id))
        if origin is None:
            completed.append(landing)
            continue
        if origin.purged_at is not None:
            log.info("Transcription %s is purged, and is not landed.", landing.transcription_id)
            continue
        completed.append(
            landing._replace(
                audio_uri=landing.audio_uri or origin.audio_uri,
                submitted_at=landing.submitted_at or origin.submitted_at,
                model=landing.model or origin.model,
            )
        )
    return completed


def settle(
    landings: Sequence[Landing], ledger: Ledger, target: str, connection: sa.Connection | None = None
) -> None:
    """
    Tell the ledger what is landed.

    :param landings: What is landed.
    :param ledger: The ledger.
    :param target: Where, as the ledger says it.
    :param connection: Connection, in the transaction to tell it in; ``None`` for one of its own.
    """
    for region, ids in _by_region(landings).items():
        here = [landing.transcription for landing in landings if landing.region == region]
        failed = {one.transcription_id: one.error for one in here if one.status is Status.FAILED}
        ledger.landed(set(ids) - set(failed), region=region, target=target, connection=connection)
        if failed:
            ledger.failed(failed, region=region, connection=connection)


def _by_region(landings: Sequence[Landing]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for landing in landings:
        found.setdefault(landing.region, []).append(landing.transcription_id)
    return found
