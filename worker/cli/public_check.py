"""Checks that ``PUBLIC_BASE_URL`` leads to this worker: DNS, the proxy, TLS and `reconnect web`, with one request."""

import secrets
from http import HTTPStatus

import aiohttp

from worker.settings import Settings
from worker.web.health import BY_PROXY, CHALLENGE, FINGERPRINT, UNREACHED, fingerprints


async def examine_public_address(settings: Settings, *, patience: float) -> tuple[bool, str]:
    """Send a random text there, and expect its keyed hash. ``patience``: seconds. Returns whether it worked, and a sentence for `doctor`."""
    base = settings.public_base_url
    if base is None:
        return True, "PUBLIC_BASE_URL is not set: messages carry MX's own links, and each works once"
    challenge = secrets.token_hex(16)
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=patience)) as session,
            session.get(f"{base}/readyz", headers={CHALLENGE: challenge}, allow_redirects=False) as response,
        ):
            status, fingerprint = response.status, response.headers.get(FINGERPRINT)
            unreached = response.headers.get(BY_PROXY) == UNREACHED
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return False, f"{base}: {_no_answer(error)}"
    if fingerprint not in fingerprints(settings, challenge):
        return False, f"{base} {_wrong_answer(status, fingerprint, unreached=unreached)}"
    if status != HTTPStatus.OK:
        return False, f"{base} reaches this worker, and it is not ready ({status}): see schema and database"
    return True, f"{base} reaches this worker"


def _no_answer(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted here, and customers' browsers may refuse it too"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "there is no such host name; see PUBLIC_BASE_URL and DNS"
    return f"nobody answers ({type(error).__name__}): start `reconnect web`, and see the proxy before it"


def _wrong_answer(status: int, fingerprint: str | None, *, unreached: bool) -> str:
    if fingerprint is not None:
        return "reaches a worker with other URI_KEYS: another installation, or one that was not restarted since they changed"
    if status == HTTPStatus.MISDIRECTED_REQUEST:
        return (
            f"has a proxy that does not pass Host on ({status}), so every customer is refused: see docs/operations.md"
        )
    if unreached or status in {HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}:
        return f"has a proxy that reaches nobody ({status}): start `reconnect web`, and see which address the proxy has of it"
    return f"answers, but it is not this worker (status {status}): see PUBLIC_BASE_URL and the proxy there"
