"""Which URIs may reach a user.

Fetch, deliver and preview use the same rule: a URI that passes can be put into a mail, a push message or a page unchanged. Any other URI is
refused when MX answers with it, so that only its own reconnection is affected.

Parsers disagree about unusual URIs, and an attacker could use that to lead a user to another host. So unusual URIs are refused: a URI
passes only if ``urlsplit``, yarl and the WHATWG rules that browsers follow read the same host.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote, urlsplit

import idna
import yarl

#: Octets. No bank needs more, and mail clients can handle this length.
MAX_LENGTH = 8 * 1024

#: Characters that end a link in the text of a mail, or an attribute or tag in HTML (RFC 3986, appendix C). No URI contains them.
_DELIMITER = re.compile(r'["<>]')

#: A host name of 253 characters and a port. A longer authority is not passed to the IDNA code.
_MAX_AUTHORITY = 253 + len(":443")
_AUTHORITY = re.compile(r"[^/?#]*")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
#: WHATWG: a host whose last label is a number, in any notation, is an IPv4 address or an error, never a name.
_ENDS_IN_A_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")


def check_uri(uri: str, *, host_is_allowed: Callable[[str], bool]) -> str | None:
    """``None`` if the URI may be stored and sent, else a short code of the first rule that it breaks.

    ``host_is_allowed`` is called with the host in lower case and in its ASCII form (``xn--…``).
    """
    broken_rule = _broken_characters(uri)
    if broken_rule:
        return broken_rule
    if uri[:6].lower() != "https:":
        return "uri_not_https"
    if uri[6:8] != "//":
        return "uri_host"
    # Without white space, control characters and backslashes, every parser ends the authority at the same place.
    match = _AUTHORITY.match(uri, 8)
    host, broken_rule = _classify_authority(match[0] if match else "")
    if broken_rule:
        return broken_rule
    if _DELIMITER.search(uri):
        return "uri_delimiter"
    return None if host_is_allowed(host) else "uri_host_not_allowed"


def in_ascii(uri: str) -> str:
    """A URI that passed :func:`check_uri`, in the ASCII form that a browser sends and an HTTP header allows (RFC 3986).

    Example: ``https://bücher.example/ü`` becomes ``https://xn--bcher-kva.example/%C3%BC``. A URI in ASCII is returned unchanged.
    """
    if uri.isascii():
        return uri
    match = _AUTHORITY.match(uri, 8)
    name, colon, port = (match[0] if match else "").partition(":")
    rest = re.sub(r"[^\x00-\x7f]+", lambda run: quote(run[0]), uri[8 + len(name + colon + port) :])
    return f"{uri[:8]}{_ascii_host(name.lower())}{colon}{port}{rest}"


def _broken_characters(uri: str) -> str | None:
    if len(uri) > MAX_LENGTH:
        return "uri_too_long"
    # A URI that fails neither check has no control, format, surrogate or unassigned character, and no space. This is the usual case.
    if not uri.isprintable() or " " in uri:
        return "uri_whitespace" if any(map(str.isspace, uri)) else "uri_control_character"
    if not uri.isascii() and len(uri.encode()) > MAX_LENGTH:
        return "uri_too_long"
    return "uri_backslash" if "\\" in uri else None


@lru_cache(
    maxsize=1024
)  # there are few hosts and the check is slow; the host part is no secret, unlike the rest of a URI
def _classify_authority(authority: str) -> tuple[str, str | None]:
    """The host in its ASCII form, and the rule it breaks, if any."""
    name, colon, port = authority.partition(":")
    if "@" in authority:
        broken_rule = "uri_user_info"
    elif "[" in authority or "]" in authority:
        broken_rule = "uri_ip_literal"
    elif len(authority) > _MAX_AUTHORITY:
        broken_rule = "uri_host"
    elif colon and port != "443":
        broken_rule = "uri_port"
    else:
        return _classify_name(name)
    return "", broken_rule


def _classify_name(written: str) -> tuple[str, str | None]:
    name = written.lower()
    try:
        # A browser first maps full-width digits and ideographic full stops to plain ones.
        if _ENDS_IN_A_NUMBER.fullmatch(name if name.isascii() else idna.uts46_remap(name, std3_rules=False)):
            return "", "uri_ip_literal"
        host = _ascii_host(name)
    except UnicodeError:  # idna.IDNAError is one
        return "", "uri_host"
    if not _HOST_NAME.fullmatch(host):
        return "", "uri_host"
    try:
        readings = (urlsplit(f"https://{written}/").hostname, yarl.URL(f"https://{written}/").raw_host)
    except ValueError:
        return "", "uri_unreadable"
    return (host, None) if readings == (name, host) else ("", "uri_unreadable")


def _ascii_host(name: str) -> str:
    """The ASCII form of a host name; ``UnicodeError`` unless the name is valid IDNA without any mapping."""
    if name.isascii():
        for label in name.split("."):
            if label.startswith("xn--"):
                idna.ulabel(label)
        return name
    host = idna.encode(name).decode("ascii")
    if idna.decode(host) != name:  # it has full stops other than the ASCII one
        raise UnicodeError
    return host
