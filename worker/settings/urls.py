"""Parses the settings that are URLs, once, when settings load.

Libraries read a URL differently if its password holds ``/``, ``#``, ``?`` or ``@``: some take the rest of the password for the host
and log it. So there is one strict grammar here, which refuses ambiguous URLs. Each function returns the URL with every part
percent-encoded, so that all libraries read it alike.

No error here quotes any part of a URL: a wrong part may be a piece of a password.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import category
from urllib.parse import parse_qsl, quote, unquote, urlencode

Host = tuple[str, int | None]

#: A host name or an IPv4 address. DNS has no ``_``, but names in container networks do. Letters outside ASCII are left to IDNA.
_HOST = re.compile(r"(?!-)[\w.-]{1,255}")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODE = "write / ? # @ % as %2F %3F %23 %40 %25 in user, password and options"

_POSTGRESQL = "expected postgresql://user:password@host:5432/name"
_SQLITE = "expected sqlite:///file, with three slashes, or four before a path from the root"
_REDIS = "expected redis://user:password@host:6379/0, or rediss:// for TLS"
#: The options that both Celery's transport and redis-py read, with their values; an option without values names a file.
_REDIS_TLS: Mapping[str, tuple[str, ...]] = {
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": ("true", "false"),
    "ssl_ca_certs": (),
    "ssl_certfile": (),
    "ssl_keyfile": (),
}
#: Options of libpq that are numbers. libpq itself checks them only when it connects.
_NUMBERS = {
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parts:
    """The decoded parts of a URL."""

    scheme: str
    hosts: tuple[Host, ...]
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    #: With its leading slash, still percent-encoded.
    path: str = field(repr=False)
    options: tuple[tuple[str, str], ...] = field(repr=False)


def split(text: str, expected: str, *, many_hosts: bool = False) -> Parts:
    """A URL of the form ``scheme://user:password@host:port/path?option=value``; ``ValueError`` with what was ``expected``."""
    text = text.strip()
    if not text.isprintable() or any(letter.isspace() for letter in text):
        raise ValueError(f"{expected}; it holds a space or a control character")
    scheme, colon, rest = text.partition("://")
    authority = re.match(r"[^/?#]*", rest)
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme.lower()) or authority is None:
        raise ValueError(expected)
    tail = rest[authority.end() :]
    if "@" in tail or "#" in tail or _STRAY_PERCENT.search(rest):
        raise ValueError(f"{expected}; {_ENCODE}")
    user_and_password, _, where = authority[0].rpartition("@")
    user, _, password = user_and_password.partition(":")
    hosts = where.split(",") if many_hosts else [where]
    path, question_mark, query = tail.partition("?")
    try:
        return Parts(
            scheme=scheme.lower(),
            hosts=tuple(map(_host, hosts)),
            username=_decoded(user) or None,
            password=_decoded(password) or None,
            path=path,
            options=tuple(
                parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else ()
            ),
        )
    except ValueError:  # its text may quote the URL, so it is not passed on
        raise ValueError(f"{expected}; {_ENCODE}" if user_and_password or question_mark else expected) from None


def _decoded(text: str) -> str:
    decoded = unquote(text, errors="strict")
    if any(category(letter) == "Cc" for letter in decoded):
        raise ValueError
    return decoded


def _host(text: str) -> Host:
    """A host from ``name:port``, ``[IPv6]:port``, or the percent-encoded folder of a Unix socket."""
    match = re.fullmatch(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:]*))(?::(?P<port>\d{0,5}))?", text, re.ASCII)
    if match is None:
        raise ValueError
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65_535:  # noqa: PLR2004 - TCP's ports
        raise ValueError
    if match["v6"] is not None:
        ipaddress.IPv6Address(match["v6"])
        return match["v6"], port
    name = _decoded(match["name"])
    if name and not name.startswith("/") and not _HOST.fullmatch(name):
        raise ValueError
    return name, port


def _authority(parts: Parts, host: str, port: int | None) -> str:
    credentials = ""
    if parts.username is not None or parts.password is not None:
        credentials = quote(parts.username or "", safe="")
        if parts.password is not None:
            credentials += ":" + quote(parts.password, safe="")
        credentials += "@"
    if ":" in host:
        host = f"[{host}]"
    return f"{credentials}{host}" + (f":{port}" if port is not None else "")


def database_url(text: str) -> str:
    """``DATABASE_URL`` in the form for SQLAlchemy. Options that libpq would refuse raise ``ValueError`` here already."""
    scheme = text.strip().partition(":")[0].partition("+")[0].lower()
    if scheme == "sqlite":
        return _sqlite_url(text.strip())
    if scheme not in {"postgresql", "postgres"}:
        raise ValueError("expected sqlite:///file or postgresql://user:password@host/name")
    parts = split(text, _POSTGRESQL, many_hosts=True)
    options = dict(parts.options)
    hosts = _hosts_of_options(parts) or parts.hosts
    options.pop("host", None)
    options.pop("port", None)
    if len(options) + sum(name in {"host", "port"} for name, _ in parts.options) < len(parts.options):
        raise ValueError(f"{_POSTGRESQL}; an option stands in it twice")
    name = _decoded(parts.path.removeprefix("/"))
    _ask_libpq({"user": parts.username, "password": parts.password, "dbname": name, **options})
    host, port = hosts[0]
    if len(hosts) > 1 or "/" in host:
        options["host"] = ",".join(host for host, _ in hosts)
        if any(port for _, port in hosts):
            options["port"] = ",".join(str(port or "") for _, port in hosts)
        host, port = "", None
    query = urlencode({key: value for key, value in options.items() if value != ""}, quote_via=quote)
    return f"postgresql://{_authority(parts, host, port)}/{quote(name, safe='')}" + (f"?{query}" if query else "")


def _hosts_of_options(parts: Parts) -> tuple[Host, ...]:
    """Hosts from libpq's ``?host=h1,h2&port=p1,p2`` or SQLAlchemy's ``?host=h1:p1&host=h2:p2``. They override the URL's host."""
    hosts = [value for name, value in parts.options if name == "host"]
    ports = [value for name, value in parts.options if name == "port"]
    expected = f"{_POSTGRESQL}; several hosts are host1:port1,host2:port2"
    try:
        if not ports:
            return tuple(
                (name, None) if name.startswith("/") else _host(name if name.count(":") < 2 else f"[{name}]")  # noqa: PLR2004
                for name in (",".join(hosts).split(",") if hosts else ())
            )
        names = ",".join(hosts).split(",") if hosts else [name for name, _ in parts.hosts]
        numbers = ",".join(ports).split(",")
        if len(numbers) == 1:
            numbers *= len(names)
        return tuple(
            (name, _host(f"h:{number}")[1])
            for name, number in zip(names, numbers, strict=True)
            if name.startswith("/") or _host(name if ":" not in name else f"[{name}]")
        )
    except ValueError:
        raise ValueError(expected) from None


def _ask_libpq(options: Mapping[str, Any]) -> None:
    """Let libpq check the options without connecting. Its messages quote values, so they are not passed on."""
    from psycopg import Error, conninfo, pq

    tried = {name: value for name, value in options.items() if value and name not in {"hostaddr", "service"}}
    for name in _NUMBERS & set(tried):
        if not re.fullmatch(r"-?\d{1,9}", str(tried[name]), re.ASCII):
            raise ValueError(f"its option {name} must be a number")
    try:
        line = conninfo.make_conninfo("", **tried | {"host": "/nonexistent", "port": "1"})
    except Error:
        raise ValueError(
            f"{_POSTGRESQL}; libpq does not know one of its options (options are its own, such as sslmode)"
        ) from None
    connection = pq.PGconn.connect_start(line.encode())
    error_message = connection.error_message.decode("utf-8", "replace")
    connection.finish()
    if refused := re.match(r"invalid (?:integer value .* for connection option \"(\w+)\"|(\w+) value)", error_message):
        raise ValueError(f"libpq does not take the value of its option {refused[1] or refused[2]}")


def _sqlite_url(text: str) -> str:
    _, slashes, path = text.partition(":///")
    if not slashes or not path or not path.isprintable() or path == ":memory:":
        raise ValueError(_SQLITE)
    if "?" in path:
        raise ValueError(f"{_SQLITE}; it takes no options")
    try:
        return "sqlite:///" + quote(_decoded(path), safe="/")
    except ValueError:
        raise ValueError(_SQLITE) from None


def redis_url(text: str) -> str:
    """``REDIS_URL`` in a form that Celery's transport and redis-py read alike."""
    parts = split(text, _REDIS)
    host, port = parts.hosts[0]
    if parts.scheme not in {"redis", "rediss"} or "/" in host:
        raise ValueError(_REDIS)
    if not re.fullmatch(r"/?\d{0,5}", parts.path, re.ASCII):
        raise ValueError(f"{_REDIS}; what follows the slash is the number of a database")
    for name, value in parts.options:
        known = _REDIS_TLS.get(name)
        if known is None or parts.scheme != "rediss":
            raise ValueError(f"{_REDIS}; options are those of TLS and go with rediss:// ({', '.join(_REDIS_TLS)})")
        if known and value not in known:
            raise ValueError(f"its option {name} must be one of {', '.join(known)}")
        if not known:
            _readable(name, value)
    query = urlencode(dict(parts.options), quote_via=quote)
    number = parts.path.strip("/") or "0"
    return f"{parts.scheme}://{_authority(parts, host or '127.0.0.1', port)}/{int(number)}" + (
        f"?{query}" if query else ""
    )


def _readable(name: str, path: str) -> None:
    try:
        Path(path).open("rb").close()
    except (OSError, ValueError):
        raise ValueError(f"the file of its option {name} cannot be read") from None


def service_url(text: str, example: str) -> str:
    """A service's base URL without a trailing slash. Must be https; http is allowed on loopback."""
    expected = f"expected a URL such as {example}"
    if "?" in text:
        raise ValueError(expected)
    return _over_tls(text, expected, "keys").rstrip("/")


def endpoint_url(text: str, example: str) -> str:
    """One URL that is posted to, unchanged, because path and query may contain a credential. Must be https; http is allowed on loopback."""
    if not text.isascii():
        raise ValueError(f"expected a URL such as {example}, with other letters percent-encoded")
    return _over_tls(text, f"expected a URL such as {example}", "what is posted")


def _over_tls(text: str, expected: str, cargo: str) -> str:
    from yarl import URL

    parts = split(text, expected)
    host = parts.hosts[0][0]
    if not host or "/" in host or parts.username is not None or parts.password is not None or "@" in text:
        raise ValueError(expected)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError(f"must be https: {cargo} would cross the network in the clear (http only on loopback)")
    text = text.strip()
    try:
        parsed_host = URL(text).raw_host
    except ValueError:
        parsed_host = None
    if not parsed_host:
        raise ValueError(expected)
    return text


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
