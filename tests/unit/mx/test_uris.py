# ruff: noqa: RUF001 - the tests need look-alike characters

import string
from urllib.parse import urlsplit

import idna
import pytest
import yarl
from hypothesis import example, given
from hypothesis import strategies as st

from worker.mx.uris import MAX_LENGTH, check_uri, in_ascii

SAMPLE = (
    "https://mxbank.mx.com/oauth/authorize?client_id=b8Oik&redirect_uri=https%3A%2F%2Fint-app.moneydesktop.com"
    "%2Foauth%2Fredirect_from&response_type=code&scope=openid&state=d273e4f71bc095cf16c4acbee011caf4"
)


def everywhere(_host):
    return True


def check(uri):
    return check_uri(uri, host_is_allowed=everywhere)


@pytest.mark.parametrize(
    "uri",
    [
        SAMPLE,
        "https://mxbank.mx.com",
        "HTTPS://MXBANK.MX.COM/oauth",
        "https://int-app.moneydesktop.com/oauth/predirect_to/MBR-1/abc",
        "https://login.bank.example:443/x",
        "https://r3---sn-4g5e.bank.example/x",
        "https://bücher.example/x",
        "https://BÜCHER.example/x",
        "https://xn--bcher-kva.example/x",
        "https://9bank.example/",
        "https://bank.example/?next=a@b&x=[1]#@evil.example",
        "https://bank.example?state=é",
        "https://bank.example/" + "a" * (MAX_LENGTH - 21),
    ],
)
def test_what_a_bank_may_send_is_fine(uri):
    assert check(uri) is None


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("", "uri_not_https"),
        ("http://mxbank.mx.com/", "uri_not_https"),
        ("javascript:alert(1)", "uri_not_https"),
        ("data:text/html,x", "uri_not_https"),
        ("//mxbank.mx.com/", "uri_not_https"),
        ("/oauth/authorize", "uri_not_https"),
        ("mxbank.mx.com", "uri_not_https"),
        ("httpſ://mxbank.mx.com/", "uri_not_https"),
        ("https://evil.example\\@mxbank.mx.com/", "uri_backslash"),
        ("https:\\\\evil.example/", "uri_backslash"),
        ("https://mxbank.mx.com/a\\b", "uri_backslash"),
        *(
            (f"https://mxbank.mx.com/{place}a{character}b", "uri_delimiter")
            for character in '"<>'
            for place in ("", "?", "#")
        ),
        ("https://user@mxbank.mx.com/", "uri_user_info"),
        ("https://user:password@mxbank.mx.com/", "uri_user_info"),
        ("https://mxbank.mx.com@evil.example/", "uri_user_info"),
        ("https://@mxbank.mx.com/", "uri_user_info"),
        (" https://mxbank.mx.com/", "uri_whitespace"),
        ("https://mxbank.mx.com/ ", "uri_whitespace"),
        ("https://mxbank.mx.com/a b", "uri_whitespace"),
        ("https://mxbank.mx.com/a\tb", "uri_whitespace"),
        ("ht\ntps://mxbank.mx.com/", "uri_whitespace"),
        ("https://mxbank.mx.com/\r\nBcc: x", "uri_whitespace"),
        ("https://mxbank.mx.com/a\u00a0b", "uri_whitespace"),
        ("https://mxbank.mx.com/a\u2028b", "uri_whitespace"),
        ("https://mxbank.mx.com/a\u3000b", "uri_whitespace"),
        ("https://mxbank.mx.com/a\x00b", "uri_control_character"),
        ("https://mxbank.mx.com/a\x7fb", "uri_control_character"),
        ("https://mxbank.mx.com/a\u200bb", "uri_control_character"),
        ("https://mxbank.mx.com/a\u202eb", "uri_control_character"),
        ("\ufeffhttps://mxbank.mx.com/", "uri_control_character"),
        ("https://mxbank.mx.com/\ud800", "uri_control_character"),
        ("https://mx\u00adbank.mx.com/", "uri_control_character"),
        ("https://127.0.0.1/", "uri_ip_literal"),
        ("https://127.0.0.1./", "uri_ip_literal"),
        ("https://127.1/", "uri_ip_literal"),
        ("https://2130706433/", "uri_ip_literal"),
        ("https://0x7f000001/", "uri_ip_literal"),
        ("https://0X7F.0.0.1/", "uri_ip_literal"),
        ("https://0177.0.0.1/", "uri_ip_literal"),
        ("https://1.2.3.4.5/", "uri_ip_literal"),
        ("https://bank.256/", "uri_ip_literal"),
        ("https://bank.0x/", "uri_ip_literal"),
        ("https://１２７.0.0.1/", "uri_ip_literal"),
        ("https://127。0。0。1/", "uri_ip_literal"),
        ("https://[::1]/", "uri_ip_literal"),
        ("https://[::ffff:127.0.0.1]/", "uri_ip_literal"),
        ("https://[fe80::1%25eth0]/", "uri_ip_literal"),
        ("https://[v1.x]/", "uri_ip_literal"),
        ("https://mxbank.mx.com:8443/", "uri_port"),
        ("https://mxbank.mx.com:80/", "uri_port"),
        ("https://mxbank.mx.com:/", "uri_port"),
        ("https://mxbank.mx.com:0443/", "uri_port"),
        ("https://mxbank.mx.com:４４３/", "uri_port"),
        ("https://mxbank.mx.com:443:443/", "uri_port"),
        ("https://mxbank.mx.com:x/", "uri_port"),
        ("https:mxbank.mx.com/", "uri_host"),
        ("https:/mxbank.mx.com/", "uri_host"),
        ("https:///mxbank.mx.com/", "uri_host"),
        ("https://", "uri_host"),
        ("https://?x", "uri_host"),
        ("https://localhost/", "uri_host"),
        ("https://mxbank.mx.com./", "uri_host"),
        ("https://mxbank..com/", "uri_host"),
        ("https://.mx.com/", "uri_host"),
        ("https://-mxbank.mx.com/", "uri_host"),
        ("https://mxbank-.mx.com/", "uri_host"),
        ("https://mx_bank.mx.com/", "uri_host"),
        ("https://mx%62ank.mx.com/", "uri_host"),
        ("https://mxbank.mx.com;evil.example/", "uri_host"),
        ("https://mxbank.mx.com&evil.example/", "uri_host"),
        ("https://mxbank.mx.com,evil.example/", "uri_host"),
        ("https://evil.example／.mx.com/", "uri_host"),
        ("https://evil.example℀.mx.com/", "uri_host"),
        ("https://mxbank。mx.com/", "uri_host"),
        ("https://ｍxbank.mx.com/", "uri_host"),
        ("https://xn--a.example/", "uri_host"),
        ("https://xn--.example/", "uri_host"),
        ("https://" + "a" * 64 + ".example/", "uri_host"),
        ("https://" + "a." * 130 + "example/", "uri_host"),
        ("https://" + "é" * 4000 + ".example/", "uri_host"),
        ("https://bank.example/" + "a" * MAX_LENGTH, "uri_too_long"),
        ("https://bank.example/" + "é" * (MAX_LENGTH // 2), "uri_too_long"),
    ],
)
def test_a_uri_that_readers_could_take_for_another_is_refused(uri, code):
    assert check(uri) == code


def test_the_allow_list_is_asked_for_the_host_in_lower_case_and_in_ascii():
    asked = []
    for uri in ("https://MXBank.mx.com:443/x", "https://Bücher.example/"):
        assert check_uri(uri, host_is_allowed=lambda host: bool(asked.append(host))) == "uri_host_not_allowed"
    assert asked == ["mxbank.mx.com", "xn--bcher-kva.example"]


def test_the_allow_list_is_asked_every_time():
    assert check_uri(SAMPLE, host_is_allowed=everywhere) is None
    assert check_uri(SAMPLE, host_is_allowed=lambda _: False) == "uri_host_not_allowed"


hosts = st.text(alphabet=string.ascii_letters + "0123456789-._%:@[]éßİ。．／①\u0661xn", max_size=30)
uris = st.one_of(
    st.text(),
    st.builds("https://{}{}".format, hosts, st.text(max_size=30)),
    st.builds("https://{}.example/{}".format, hosts, st.text(max_size=10)),
)


@given(uris)
@example("https://evil.example\\@mxbank.mx.com/")
@example("https://a.example/?@[x]:1#//evil.example")
@example("HTTPS://00--0.A")
def test_every_reader_finds_the_same_host_in_what_passes(uri):
    hosts = []
    if check_uri(uri, host_is_allowed=lambda host: not hosts.append(host)) is None:
        read = urlsplit(uri)
        assert read.scheme == "https"
        # A name in ASCII needs not be valid IDNA: r3---sn-4g5e.bank.example.
        assert read.hostname == hosts[0] or idna.encode(read.hostname).decode() == hosts[0]
        assert yarl.URL(uri).raw_host == hosts[0]
        assert yarl.URL(uri).user is None
        assert read.port in {None, 443}


@given(st.text(max_size=50))
def test_no_text_makes_the_check_raise(text):
    for uri in (text, f"https://{text}", f"https://{text}.example/"):
        assert check(uri) is None or check(uri).startswith("uri_")


@pytest.mark.parametrize(
    ("uri", "written"),
    [
        ("https://bank.example/a%2Fb?c=[d]|^'", "https://bank.example/a%2Fb?c=[d]|^'"),
        ("https://bank.example/ü/€?ä=é#ß", "https://bank.example/%C3%BC/%E2%82%AC?%C3%A4=%C3%A9#%C3%9F"),
        ("HTTPS://Bücher.example:443/?state=1", "HTTPS://xn--bcher-kva.example:443/?state=1"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_a_uri_stands_in_a_header_as_a_browser_writes_it(uri, written):
    assert check_uri(uri, host_is_allowed=lambda _: True) is None
    assert in_ascii(uri) == written
