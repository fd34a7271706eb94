"""The client's address behind proxies, and whether a request is for our host."""

import pytest

from worker.web.client import Clients, PublicHost


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1", "192.0.2.9, 10.1.2.3"], "192.0.2.9"),
        ("127.0.0.1", ["198.51.100.1, nonsense"], None),
        ("127.0.0.1", ["10.1.2.3"], None),
        ("127.0.0.1", [], None),
        ("127.0.0.1", ["[2001:db8::1]:443"], "2001:db8::"),
        (None, ["198.51.100.1"], None),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy_of_ours(
    peer: str | None, forwarded: list[str], client: str | None
) -> None:
    assert Clients(("127.0.0.1", "::1", "10.0.0.0/8")).of(peer, forwarded) == client


@pytest.mark.parametrize(
    ("base", "host", "meant"),
    [
        ("https://a.example", "a.example", True),
        ("https://a.example", "A.example.:443", True),
        ("https://a.example:8443/x", "a.example:8443", True),
        ("https://a.example:8443", "a.example", False),
        ("https://a.example", "a.example:80", False),
        ("http://[::1]:80", "[::1]", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://bücher.example", "xn--bcher-kva.example", True),
        ("https://a.example", "a.example, b.example", False),
        ("https://a.example", "", False),
        ("https://a.example", "b.a.example", False),
        ("https://a.example", "a.example:x", False),
        ("https://a.example", "\udcff", False),
    ],
)
def test_a_host_is_ours_in_every_way_to_write_it(base: str, host: str, *, meant: bool) -> None:
    assert PublicHost(base).is_meant([host]) == meant
    assert not PublicHost(base).is_meant([host, host])
