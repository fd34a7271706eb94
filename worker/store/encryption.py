"""Encryption of stored URIs: Fernet with the first of ``URI_KEYS``; any of them decrypts."""

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from worker.errors import SettingsError
from worker.settings import Settings


class Vault:
    """Encrypts and decrypts window URIs."""

    def __init__(self, settings: Settings) -> None:
        fernets = [Fernet(key.get_secret_value()) for key in settings.uri_keys]
        self._first = fernets[0]
        self._fernet = MultiFernet(fernets)

    def encrypt(self, uri: str) -> str:
        """The URI as it is stored."""
        return self._first.encrypt(uri.encode()).decode()

    def is_under_first_key(self, stored: str) -> bool:
        """Whether a stored URI needs no rotation."""
        try:
            self._first.decrypt(stored)
        except InvalidToken:
            return False
        return True

    def rotate(self, stored: str) -> str:
        """The same URI, encrypted with the first key; raises :class:`SettingsError` if no key of ``URI_KEYS`` fits."""
        return self.encrypt(self.decrypt(stored))

    def decrypt(self, stored: str) -> str:
        """The URI that was stored; raises :class:`SettingsError` if no key of ``URI_KEYS`` fits."""
        try:
            return self._fernet.decrypt(stored).decode()
        except InvalidToken:
            raise SettingsError(
                "settings: URI_KEYS: no key fits a stored URI; put the key that was in use back at the end"
            ) from None
