from __future__ import annotations

import pytest

from plaud_provider.auth.sealing import UrlSeal
from plaud_provider.encryption import cipher
from plaud_provider.exceptions import PlaudInputError

URL = "https://files.example/é/a.mp3?sig=canary"


def test_a_url_comes_back_in_another_process_of_the_same_client() -> None:
    sealed = UrlSeal("secret").seal(URL)

    assert "canary" not in sealed
    assert UrlSeal("secret").unseal(sealed) == URL


def test_another_secret_key_does_not_open_it() -> None:
    with pytest.raises(PlaudInputError, match="Clear the task that lists them"):
        UrlSeal("new secret").unseal(UrlSeal("secret").seal(URL))


def test_what_is_sealed_for_one_purpose_is_of_no_use_for_another() -> None:
    with pytest.raises(PlaudInputError):
        UrlSeal("secret").unseal(cipher("secret", "token store").encrypt(URL.encode()).decode())
