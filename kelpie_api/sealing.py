"""Secrets that must be kept for a while and read again: the key that a webhook carries (contract section 4)."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken


class Seal:
    """Encrypts with a key derived from KELPIE_SECRET_KEY, which may be any string of 32 characters or more."""

    def __init__(self, secret_key: str) -> None:
        derived = hashlib.sha256(b"kelpie webhook key\0" + secret_key.encode()).digest()
        self.fingerprint = hmac.digest(derived, b"kelpie fingerprint", "sha256")  # tells keys apart, and no more
        self.fernet = Fernet(base64.urlsafe_b64encode(derived))

    def seal(self, secret: str) -> bytes:
        return self.fernet.encrypt(secret.encode())

    def open(self, sealed: bytes | None) -> str:
        """The secret, or an empty string where there is none or it was sealed with another key."""
        if sealed is None:
            return ""
        try:
            return self.fernet.decrypt(sealed).decode()
        except InvalidToken:
            return ""
