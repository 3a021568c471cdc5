"""A letter that only one process can open: how keys to a store reach a Ray job, whose parameters everybody can read.

The job makes a key pair, shows the public half in its log, and keeps the private half in memory. Whoever holds the
store's keys seals them for it. Construction: X25519 with a fresh key on the sender's side, HKDF-SHA256 over the shared
secret with both public keys as salt, ChaCha20-Poly1305 under the derived key (used once, so the nonce is zero).
"""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ray_workers.store.errors import InvalidInputError

__all__ = ["LetterBox", "seal"]

_PURPOSE = b"pawl store keys 1"
_NONCE = bytes(12)
_KEY_BYTES = 32


class LetterBox:
    """The receiver's side; its private key is never written anywhere."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()

    @property
    def public(self) -> str:
        return base64.b64encode(self._private.public_key().public_bytes_raw()).decode()

    def open(self, letter: str) -> bytes:
        """The sealed content. Raises `InvalidInputError` for a letter that was sealed for somebody else, or changed."""
        try:
            raw = base64.b64decode(letter, validate=True)
            sender = X25519PublicKey.from_public_bytes(raw[:_KEY_BYTES])
            shared = self._private.exchange(sender)
            cipher = _cipher(shared, raw[:_KEY_BYTES], base64.b64decode(self.public))
            return cipher.decrypt(_NONCE, raw[_KEY_BYTES:], None)
        except (binascii.Error, ValueError, InvalidTag):
            raise InvalidInputError(
                "The letter with the store's keys is not for this job."
            ) from None


def seal(content: bytes, public: str) -> str:
    """`content`, for the holder of the private half of `public` alone."""
    receiver = base64.b64decode(public, validate=True)
    own = X25519PrivateKey.generate()
    sender = own.public_key().public_bytes_raw()
    shared = own.exchange(X25519PublicKey.from_public_bytes(receiver))
    sealed = _cipher(shared, sender, receiver).encrypt(_NONCE, content, None)
    return base64.b64encode(sender + sealed).decode()


def _cipher(shared: bytes, sender: bytes, receiver: bytes) -> ChaCha20Poly1305:
    derived = HKDF(SHA256(), length=_KEY_BYTES, salt=sender + receiver, info=_PURPOSE)
    return ChaCha20Poly1305(derived.derive(shared))
