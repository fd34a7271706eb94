import pytest

from worker.mx.atrium import Atrium

USER, MEMBER = "USR-fa7537f3", "MBR-7c6f361b"
PATH = f"/users/{USER}/members/{MEMBER}"


def test_the_three_headers_are_those_of_the_specification(make_settings):
    assert dict(Atrium(make_settings()).headers) == {
        "Accept": "application/vnd.mx.atrium.v1+json",
        "MX-API-Key": "key-7f3a",
        "MX-Client-ID": "client-91bc",
    }


def test_the_paths_are_those_of_the_specification(make_settings):
    atrium = Atrium(make_settings())
    assert str(atrium.window_url(USER, MEMBER)) == (
        f"https://vestibule.mx.com{PATH}/oauth_window_uri?referral_source=BROWSER"
    )
    assert str(atrium.member_url(USER, MEMBER)) == f"https://vestibule.mx.com{PATH}"


def test_all_four_parameters_are_sent_when_they_are_set(make_settings):
    settings = make_settings(
        mx_skip_aggregation=True,
        mx_referral_source="APP",
        mx_client_redirect_url="https://app.example/back?a=1&b=%C3%BC",
        mx_ui_message_webview_url_scheme="my+app",
    )
    url = Atrium(settings).window_url(USER, MEMBER)
    assert dict(url.query) == {
        "skip_aggregation": "true",
        "referral_source": "APP",
        "client_redirect_url": "https://app.example/back?a=1&b=%C3%BC",
        "ui_message_webview_url_scheme": "my+app",
    }
    assert "client_redirect_url=https%3A%2F%2Fapp.example%2Fback%3Fa%3D1%26b%3D%25C3%25BC" in url.raw_query_string


@pytest.mark.parametrize(
    "base", ["https://proxy.example/mx", "https://proxy.example/mx/", "https://proxy.example/mx//"]
)
def test_a_base_url_may_have_a_path(make_settings, base):
    assert str(Atrium(make_settings(mx_base_url=base)).member_url(USER, MEMBER)) == f"https://proxy.example/mx{PATH}"


def test_a_host_outside_ascii_is_written_as_the_network_knows_it(make_settings):
    atrium = Atrium(make_settings(mx_base_url="https://bücher.example"))
    assert str(atrium.member_url(USER, MEMBER)).isascii()
    assert atrium.member_url(USER, MEMBER).raw_host == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "guid", ["MBR-1/../../users", "MBR-1?x=1", "MBR-1#x", "MBR-1%2f", "MBR-é", "MBR-1 2", "MBR-\r\n"]
)
def test_no_identifier_can_leave_its_place_in_the_path(make_settings, guid):
    url = Atrium(make_settings()).member_url(USER, guid)
    assert url.raw_path.isascii()
    assert url.raw_path.startswith(f"/users/{USER}/members/MBR-")
    assert len(url.raw_parts) == 5
    assert not url.raw_query_string
    assert not url.raw_fragment


def test_no_repr_shows_a_credential(make_settings):
    atrium = Atrium(make_settings())
    for shown in (repr(atrium), repr(atrium.headers), repr(list(atrium.headers.values()))):
        assert "7f3a" not in shown
        assert "91bc" not in shown
