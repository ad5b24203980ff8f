from __future__ import annotations

import pytest

from plaud_provider.api.account import Account
from plaud_provider.api.effects import Request, Response, Token
from plaud_provider.api.models import Segment, Transcription


@pytest.mark.parametrize("record", [Account, Request, Response, Segment, Token, Transcription])
def test_nothing_that_takes_tuples_apart_shows_what_repr_leaves_out(record: type) -> None:
    assert not issubclass(record, tuple)
