from __future__ import annotations

import pytest

from plaud_provider.warehouse.ledger import Ledger
from tests.unit.warehouse.ledgers import Clock, ledger_in
from tests.unit.warehouse.warehouses import Warehouse


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(warehouse: Warehouse, clock: Clock) -> Ledger:
    return ledger_in(warehouse, clock)
