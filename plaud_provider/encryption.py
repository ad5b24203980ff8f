"""
Secrets that are kept are encrypted with a key derived from the client's secret key.

Whoever can read what is kept could have asked Plaud for it anyway.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


def cipher(secret_key: str, purpose: str) -> Fernet:
    """
    Return what encrypts and decrypts.

    :param secret_key: The client's secret key: of another one nothing can be decrypted.
    :param purpose: What is kept. What is kept for one purpose cannot be passed off as of another.
    """
    from cryptography.fernet import Fernet

    text = f"airflow-provider-plaud {purpose}".encode()
    digest = hashlib.blake2b(text, key=_key(secret_key), digest_size=32)
    return Fernet(base64.urlsafe_b64encode(digest.digest()))


def named_by(secret_key: str) -> str:
    """Return what tells the secret keys of a client apart in names of files, and does not give them away."""
    return hashlib.sha256(_key(secret_key)).hexdigest()[:16]


def _key(secret_key: str) -> bytes:
    # It is a random API key: a fast hash suffices, a password hash would cost every task.
    return hashlib.sha256(secret_key.encode()).digest()
