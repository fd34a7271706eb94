"""nginx or Caddy for a minute, on loopback, with the configuration of ``ops/proxy`` and a self-signed certificate."""

import datetime as dt
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from worker.cli.processes import free_port

HOST = "reconnect.example.com"
SNIPPETS = Path(__file__).parents[1] / "proxy"
#: Seconds that a server may take to start.
_PATIENCE = 90.0
_NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-main.log;
events {{}}
http {{
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    access_log {folder}/nginx-access.log;
    include {folder}/reconnect.conf;
}}
"""


def certificate(folder: Path) -> None:
    """Write ``reconnect.pem`` and ``reconnect.key`` for :data:`HOST`, self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "reconnect.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "reconnect.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _nginx(folder: Path, port: int, web: int) -> list[str]:
    text = (SNIPPETS / "nginx.conf").read_text(encoding="utf-8")
    for ours, theirs in (
        ("127.0.0.1:8080", f"127.0.0.1:{web}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("listen 80;", f"listen 127.0.0.1:{free_port()};"),
        ("/etc/ssl/", f"{folder}/"),
        ("/var/log/nginx/", f"{folder}/"),
    ):
        text = _replaced(text, ours, theirs)
    (folder / "reconnect.conf").write_text(text, encoding="utf-8")
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder), encoding="utf-8")
    return ["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/nginx-start.log"]


def _caddy(folder: Path, port: int, web: int) -> list[str]:
    text = (SNIPPETS / "Caddyfile").read_text(encoding="utf-8")
    text = _replaced(text, "127.0.0.1:8080", f"127.0.0.1:{web}")
    # Without a certificate from outside, without port 80 and without the admin port.
    text = _replaced(text, "\n{\n", "\n{\n\tadmin off\n\tauto_https disable_redirects\n")
    tls = f"https://{HOST}:{port} {{\n\ttls {folder}/reconnect.pem {folder}/reconnect.key\n\t"
    text = _replaced(text, f"{HOST} {{", tls)
    (folder / "Caddyfile").write_text(text, encoding="utf-8")
    return ["caddy", "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


PROXIES = {"nginx": _nginx, "caddy": _caddy}


def installed(name: str) -> bool:
    """Whether the distribution's package is installed."""
    return shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin") is not None


@contextmanager
def running(name: str, folder: Path, web: int) -> Iterator[int]:
    """Run the proxy before the web process on port ``web``; yield its port. Its output goes to a file in ``folder``."""
    port = free_port()
    command = PROXIES[name](folder, port, web)
    environment = {"PATH": "/usr/sbin:/usr/bin:/bin:/usr/local/bin", "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with (folder / f"{name}-output.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a server listens. Raises ``RuntimeError`` if the process ended or takes too long."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("it does not start")
        time.sleep(0.05)


def _replaced(text: str, ours: str, theirs: str) -> str:
    if ours not in text:
        raise RuntimeError(f"ops/proxy changed: {ours.strip()!r} is not in it")
    return text.replace(ours, theirs)
