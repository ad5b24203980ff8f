"""URLs that one task leaves for another one in a file, so that only the client itself can read them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from plaud_provider.encryption import cipher
from plaud_provider.exceptions import PlaudInputError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


class UrlSeal:
    """
    Seals the URLs that users give, which one task leaves for another one in a file.

    :param secret_key: Of the client that submits.
    """

    def __init__(self, secret_key: str) -> None:
        self._secret_key = secret_key

    def seal(self, url: str) -> str:
        """Return what can be stored in place of a URL."""
        return self._cipher.encrypt(url.encode("utf-8", "surrogatepass")).decode()

    def unseal(self, sealed: str) -> str:
        """
        Return the URL.

        :raises PlaudInputError: if it was sealed with another secret key; nothing was sent.
        """
        from cryptography.fernet import InvalidToken

        try:
            return self._cipher.decrypt(sealed).decode("utf-8", "surrogatepass")
        except InvalidToken:
            raise PlaudInputError(
                "manifest: its URLs were sealed with another secret key than that of the connection. Clear "
                "the task that lists them. Nothing was sent, nothing is paid for."
            ) from None

    @cached_property
    def _cipher(self) -> Fernet:
        return cipher(self._secret_key, "recordings")
