"""TLS before plain servers, like a company's proxy or a bank: https names that lead to ports of this machine."""

import asyncio
import base64
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Tls:
    """A certificate for these names, and TLS servers that use it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        #: The hash of the public key, with which a browser can be told to trust the certificate.
        self.key_hash = base64.b64encode(sha256(public).digest()).decode()
        name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])]), datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
            .sign(key, hashes.SHA256())
        )
        file = folder / "tls.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(file)

    @contextmanager
    def before(self, *ports: int) -> Iterator[list[int]]:
        """Serve TLS before these ports of 127.0.0.1, in a separate thread; yields the TLS ports."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        servers: list[asyncio.Server] = [
            asyncio.run_coroutine_threadsafe(self._serve(port), loop).result(30) for port in ports
        ]
        try:
            yield [server.sockets[0].getsockname()[1] for server in servers]
        finally:
            asyncio.run_coroutine_threadsafe(_close(servers), loop).result(30)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(30)
            loop.close()

    async def _serve(self, port: int) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                inner = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pass_on(reader, inner[1]), _pass_on(inner[0], writer))

        return await asyncio.start_server(connected, "127.0.0.1", 0, ssl=self._context)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, ssl.SSLError):
        writer.close()


async def _close(servers: Sequence[asyncio.Server]) -> None:
    for server in servers:
        server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
