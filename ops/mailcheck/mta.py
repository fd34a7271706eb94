"""A real mail server for a few minutes: Postfix or Exim, on loopback, with its own configuration and spool.

The system's mail server is not touched: no service, no ``/etc``, no spool. Mail for ``mail.example`` is put into a maildir, and no mail
is relayed. Both servers can only be started as root, and then give up root's rights.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.cli.processes import free_port

DOMAIN = "mail.example"
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"

_POSTFIX_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.mail.example
mydestination =
alias_maps =
alias_database =
smtpd_relay_restrictions = reject_unauth_destination
default_transport = error:nothing leaves this machine
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}
virtual_mailbox_maps = static:box/
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
"""
_POSTFIX_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
virtual unix - n n - - virtual
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
_EXIM = """\
primary_hostname = mx.mail.example
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/pid
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_queue_per_connection = 0
tls_advertise_hosts =
domainlist ours = {domain}
acl_smtp_rcpt = rcpt

begin acl
rcpt:
  accept domains = +ours
  deny message = nothing leaves this machine

begin routers
all:
  driver = accept
  domains = +ours
  transport = box

begin transports
box:
  driver = appendfile
  directory = {folder}/box
  maildir_format
  create_directory
  user = {user}
  group = {gid}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mta:
    """A server that takes mail for ``mail.example``."""

    name: str
    port: int
    box: Path

    def delivered(self) -> list[bytes]:
        """The mails in the mailbox."""
        return [path.read_bytes() for path in sorted((self.box / "new").glob("*"))]


def installed() -> list[str]:
    """The installed mail servers, the stricter one first."""
    found = ["postfix"] if _find("postfix") else []
    return [*found, "exim"] if _find("exim4") or _find("exim") else found


@contextmanager
def running(name: str) -> Iterator[Mta]:
    """Run one of :func:`installed` until the block ends. Raises ``RuntimeError`` with its output if it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="mailcheck-"))
    folder.chmod(0o755)  # Postfix's own users need access
    try:
        with (_postfix if name == "postfix" else _exim)(folder, free_port()) as mta:
            yield mta
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _postfix(folder: Path, port: int) -> Iterator[Mta]:
    user = pwd.getpwnam("nobody")
    for name in ("etc", "queue", "data", "box"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    shutil.chown(folder / "box", user.pw_uid, user.pw_gid)
    values = {"folder": folder, "port": port, "domain": DOMAIN, "uid": user.pw_uid, "gid": user.pw_gid}
    (folder / "etc" / "main.cf").write_text(_POSTFIX_MAIN.format(**values))
    (folder / "etc" / "master.cf").write_text(_POSTFIX_MASTER.format(**values))
    command = [_find("postfix"), "-c", str(folder / "etc")]
    version = subprocess.run(
        [_find("postconf"), "-h", "mail_version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        with _process([*command, "start-fg"], port, folder / "log"):
            yield Mta(name=f"Postfix {version}", port=port, box=folder / "box")
    finally:  # the started process is a script; Postfix's master is its child
        subprocess.run([*command, "stop"], capture_output=True, check=False)


@contextmanager
def _exim(folder: Path, port: int) -> Iterator[Mta]:
    executable = _find("exim4") or _find("exim")
    user = pwd.getpwnam("Debian-exim")  # it never delivers as root
    shutil.chown(folder, user.pw_uid, user.pw_gid)
    configuration = folder / "exim.conf"
    values = {"folder": folder, "port": port, "domain": DOMAIN, "user": user.pw_name, "gid": user.pw_gid}
    configuration.write_text(_EXIM.format(**values))
    version = subprocess.run([executable, "-bV"], capture_output=True, text=True, check=True).stdout.split()[2]
    with _process([executable, "-C", str(configuration), "-bdf", "-odi"], port, folder / "mainlog"):
        yield Mta(name=f"Exim {version}", port=port, box=folder / "box")


@contextmanager
def _process(command: list[str], port: int, log: Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        if not wait_until(lambda: _answers(port) or process.poll() is not None) or process.poll() is not None:
            said = (
                process.stdout.read().decode(errors="replace") if process.poll() is not None and process.stdout else ""
            )
            raise RuntimeError((said + (log.read_text() if log.exists() else "")).strip() or "it does not start")
        yield
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout:
            process.stdout.close()


def wait_until(condition: Callable[[], object], *, seconds: float = 30.0) -> bool:
    """Wait for a condition; return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(3) == b"220"
    except OSError:
        return False


def _find(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}") or ""
