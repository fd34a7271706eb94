"""Checks the credentials of a request: one name and password (Basic), or one token (Bearer), compared in constant time."""

import base64
import binascii
import hashlib
import hmac

from aiohttp import hdrs, web


class Credentials:
    """The credentials of one setting: ``user:password`` or ``bearer TOKEN``."""

    def __init__(self, setting: str) -> None:
        scheme, space, token = setting.partition(" ")
        self._is_bearer = bool(space) and scheme.lower() == "bearer"
        self._digest = _digest((token.strip() if self._is_bearer else setting).encode())
        #: The ``WWW-Authenticate`` header of the answer to an unauthorised request.
        self.challenge = "Bearer" if self._is_bearer else 'Basic realm="webhooks", charset="UTF-8"'

    def __repr__(self) -> str:
        return f"Credentials({'bearer' if self._is_bearer else 'basic'})"

    def are_in(self, request: web.Request) -> bool:
        """Whether the request has exactly one ``Authorization`` header, and it holds these credentials.

        Digests are compared, all of one length, so the time reveals neither how much was right nor how long the secret is.
        """
        authorizations = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, value = authorizations[0].partition(" ") if len(authorizations) == 1 else ("", "", "")
        if scheme.lower() != ("bearer" if self._is_bearer else "basic"):
            return False
        credentials = value.strip().encode("utf-8", "surrogateescape")
        if not self._is_bearer:
            try:
                credentials = base64.b64decode(credentials, validate=True)
            except (binascii.Error, ValueError):
                return False
        return hmac.compare_digest(_digest(credentials), self._digest)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
