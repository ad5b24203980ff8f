"""What is kept in files so that only whoever has the client's secret key can read it."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from plaud_provider.exceptions import PlaudInputError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


def cipher(secret_key: str, purpose: str) -> Fernet:
    """
    Return the cipher for one purpose: whoever can read what it has written could have asked Plaud anyway.

    :param secret_key: Of the client. It is a random API key: a fast hash suffices, a password hash would cost
        every task.
    :param purpose: What it is for; what one cipher has written, that of another purpose cannot read.
    """
    from cryptography.fernet import Fernet

    key = hashlib.sha256(secret_key.encode()).digest()
    digest = hashlib.blake2b(f"airflow-provider-plaud {purpose}".encode(), key=key, digest_size=32)
    return Fernet(base64.urlsafe_b64encode(digest.digest()))


class UrlSeal:
    """
    Seals the URLs that users give, which one task leaves for another one in a file.

    :param secret_key: Of the client that submits.
    """

    def __init__(self, secret_key: str) -> None:
        self._secret_key = secret_key
        self._cipher: Fernet | None = None

    def seal(self, url: str) -> str:
        """Return what can be stored in place of a URL."""
        return self._opened().encrypt(url.encode("utf-8", "surrogatepass")).decode()

    def unseal(self, sealed: str) -> str:
        """
        Return the URL.

        :raises PlaudInputError: if it was sealed with another secret key; nothing was sent.
        """
        from cryptography.fernet import InvalidToken

        try:
            return self._opened().decrypt(sealed).decode("utf-8", "surrogatepass")
        except InvalidToken:
            raise PlaudInputError(
                "manifest: its URLs were sealed with another secret key than that of the connection. Clear "
                "the task that lists them. Nothing was sent, nothing is paid for."
            ) from None

    def _opened(self) -> Fernet:
        if self._cipher is None:
            self._cipher = cipher(self._secret_key, "recordings")
        return self._cipher
