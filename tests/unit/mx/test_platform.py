import pytest

from worker.errors import SettingsError
from worker.mx.platform import Platform
from worker.settings import load_settings

USER, MEMBER = "USR-fa7537f3", "MBR-7c6f361b"
BASE = "https://int-api.mx.com"


@pytest.fixture
def platform(make_settings):
    return lambda **given: Platform(make_settings(mx_api="platform", **given))


def test_the_headers_are_those_of_version_v20250224(platform):
    assert dict(platform().headers) == {
        "Accept": "application/json",
        "Accept-Version": "v20250224",
        "Authorization": "Basic Y2xpZW50LTkxYmM6a2V5LTdmM2E=",  # client-91bc:key-7f3a
    }


def test_the_paths_are_those_of_the_openapi_file(platform):
    asked = platform()
    member = f"{BASE}/users/{USER}/members/{MEMBER}"
    assert str(asked.window_url(USER, MEMBER)) == f"{member}/oauth_window_uri?referral_source=BROWSER"
    assert str(asked.member_url(USER, MEMBER)) == member
    assert str(asked.users_url()) == f"{BASE}/users?page=1&records_per_page=10"
    assert str(asked.members_url(USER, 2, 100)) == f"{BASE}/users/{USER}/members?page=2&records_per_page=100"


def test_users_and_members_may_be_named_by_the_clients_own_ids(platform):
    assert str(platform().member_url("u_12-a", "m_1")) == f"{BASE}/users/u_12-a/members/m_1"


def test_all_five_parameters_are_sent_when_they_are_set(platform):
    url = platform(
        mx_skip_aggregation=True,
        mx_referral_source="APP",
        mx_client_redirect_url="https://app.example/back",
        mx_ui_message_webview_url_scheme="myapp",
        mx_enable_app2app=False,
    ).window_url(USER, MEMBER)
    assert dict(url.query) == {
        "skip_aggregation": "true",
        "referral_source": "APP",
        "client_redirect_url": "https://app.example/back",
        "ui_message_webview_url_scheme": "myapp",
        "enable_app2app": "false",
    }


def test_no_repr_shows_a_credential(platform):
    asked = platform()
    for shown in (repr(asked), repr(asked.headers), repr(vars(asked))):
        assert "7f3a" not in shown
        assert "91bc" not in shown
        assert "Y2xp" not in shown


REQUIRED = {"mx_api_key": "k", "mx_client_id": "c", "uri_keys": "PH1WPzZSwAbUvBqpeREWV7hsdZBhWyG8PpYBGG3SqiY="}


@pytest.mark.parametrize("unset", [{}, {"mx_base_url": ""}, {"mx_base_url": "  "}])
def test_the_base_url_is_that_of_the_flavour(unset):
    given = REQUIRED | unset
    assert load_settings(_env_file=None, **given).mx_base_url == "https://vestibule.mx.com"
    assert load_settings(_env_file=None, **given, mx_api="platform").mx_base_url == BASE


def test_the_base_url_by_flavour_holds_for_the_environment_too(monkeypatch):
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setenv("MX_API", "platform")
    monkeypatch.setenv("MX_BASE_URL", "")
    assert load_settings(_env_file=None).mx_base_url == BASE


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mx_api": "platform", "mx_base_url": "https://atrium.mx.com"}, "MX_BASE_URL: speaks atrium, and MX_API is"),
        ({"mx_api": "platform", "mx_base_url": "https://VESTIBULE.mx.com/"}, "set MX_API=atrium, or unset this"),
        ({"mx_base_url": "https://api.mx.com"}, "MX_BASE_URL: speaks platform, and MX_API is atrium"),
        ({"mx_enable_app2app": "false"}, "MX_ENABLE_APP2APP: can be false only with MX_API=platform"),
        ({"mx_api": "platform", "mx_client_id": "a:b"}, "MX_CLIENT_ID: holds a colon"),
        ({"mx_api": "platforms"}, "MX_API: Input should be 'atrium' or 'platform'"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(given, says):
    with pytest.raises(SettingsError, match=says):
        load_settings(_env_file=None, **(REQUIRED | given))
