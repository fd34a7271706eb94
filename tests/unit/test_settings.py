"""Settings have the agreed defaults. A wrong value is reported in one line that repeats no secret."""

import os
from collections.abc import Callable, Mapping
from datetime import time, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from worker.errors import SettingsError
from worker.settings import CONNECTION_STATUSES, Settings, load_settings
from worker.settings.push import PushSettings
from worker.settings.values import Cap, QuietHours, SmtpServer

KEY, OLDER_KEY = Fernet.generate_key().decode(), Fernet.generate_key().decode()
REQUIRED = {"MX_API_KEY": "api-key-5e1f", "MX_CLIENT_ID": "client-id-77ab", "URI_KEYS": KEY}

#: The contract: settings that are not required, with their defaults. A new default changes every installation that does not set it.
CONTRACT: dict[str, object] = {
    "DATABASE_URL": "sqlite:///reconnect.db",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "MX_API": "atrium",
    "MX_BASE_URL": "https://vestibule.mx.com",
    "MX_REFERRAL_SOURCE": "BROWSER",
    "MX_CLIENT_REDIRECT_URL": None,
    "MX_UI_MESSAGE_WEBVIEW_URL_SCHEME": None,
    "MX_SKIP_AGGREGATION": False,
    "MX_MAX_CONNECTIONS": 200,
    "MX_REQUESTS_PER_SECOND": None,
    "MX_ALLOWED_URI_HOSTS": (),
    "RECONNECT_STATUSES": ("DENIED", "IMPAIRED", "IMPORTED", "PREVENTED"),
    "SWEEP_SCHEDULE": "*/5 * * * *",
    "SYNC_SCHEDULE": None,
    "SYNC_EMAILS": False,
    "BATCH_SIZE": 200,
    "RUN_SECONDS": 30,
    "LEASE_SECONDS": 120,
    "MAX_ATTEMPTS": 8,
    "RETENTION_DAYS": 400,
    "NOTIFY_AFTER": timedelta(minutes=15),
    "REMINDER_DAYS": (0, 3, 7, 14, 30),
    "QUIET_HOURS": QuietHours(time(21), time(8)),
    "TIME_ZONE": "UTC",
    "MESSAGE_CAPS": (Cap(1, timedelta(hours=24)), Cap(3, timedelta(days=7))),
    "URI_MAX_AGE": timedelta(minutes=15),
    "AMBIGUOUS_SENDS": "hold",
    "SMTP_CONNECTIONS": 10,
    "SMTP_URL": None,
    "EMAIL_FROM": None,
    "EMAIL_REPLY_TO": None,
    "APP_NAME": None,
    "PUBLIC_BASE_URL": None,
    "WEB_LISTEN": "127.0.0.1:8080",
    "LINK_DAYS": 40,
    "EVENTS_URL": None,
    "MESSENGER_URL": None,
    "API_KEYS": (),
    "EVENTS_SECRETS": (),
    "MX_WEBHOOK_AUTH": None,
}

#: Each of these settings is switched off by ``0`` and by an empty value; then it has the value here.
SWITCHED_OFF: dict[str, object] = {
    "NOTIFY_AFTER": timedelta(0),
    "REMINDER_DAYS": (0,),
    "QUIET_HOURS": None,
    "MESSAGE_CAPS": (),
    "URI_MAX_AGE": timedelta(0),
    "EXPIRY_NOTICE_DAYS": (),
}

Load = Callable[..., Settings]
Complaint = Callable[..., str]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads settings from an environment with the required ones and those given; ``None`` leaves one out."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)

    def make(environment: Mapping[str, str | None] | None = None) -> Settings:
        for name, value in (REQUIRED | dict(environment or {})).items():
            if value is not None:
                monkeypatch.setenv(name, value)
        return load_settings(_env_file=None)

    return make


@pytest.fixture
def complaint(load: Load) -> Complaint:
    """Returns the one line of the error for such an environment."""

    def make(environment: Mapping[str, str | None]) -> str:
        with pytest.raises(SettingsError) as caught:
            load(environment)
        assert caught.value.exit_code == 2
        assert caught.value.__cause__ is None
        line = str(caught.value)
        assert line.isprintable()
        assert line.startswith("settings: ")
        return line

    return make


def plain(value: Any) -> object:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


@pytest.mark.parametrize("name", CONTRACT)
def test_a_default_is_the_one_of_the_contract(load: Load, name: str) -> None:
    assert plain(getattr(load(), name.lower())) == CONTRACT[name]


def test_the_contract_names_every_setting_there_is() -> None:
    beyond = {
        *PushSettings.model_fields,
        "templates_dir",
        "default_locale",
        "expiry_notice_days",
        "fallback_time_zones",
        "bounce_address",
        "complaints",
        "forwarded_allow_ips",
        "mx_enable_app2app",
    }  # added after the contract
    assert {name.upper() for name in set(Settings.model_fields) - beyond} == set(CONTRACT) | set(REQUIRED)


@pytest.mark.parametrize("nothing", [",", " , ,"])
def test_statuses_that_name_none_are_no_silent_way_to_pick_nobody(complaint: Complaint, nothing: str) -> None:
    assert "RECONNECT_STATUSES: names no status" in complaint({"RECONNECT_STATUSES": nothing})


def test_nobody_is_told_ahead_of_an_expiry_unless_asked_for(load: Load, complaint: Complaint) -> None:
    assert load({}).expiry_notice_days == ()
    assert load({"EXPIRY_NOTICE_DAYS": " 7, 2 "}).expiry_notice_days == (7, 2)
    for wrong in ("7,0", "-7", "a week", "7.5", "1000"):
        assert "EXPIRY_NOTICE_DAYS: expected days" in complaint({"EXPIRY_NOTICE_DAYS": wrong})
    for wrong in ("2,7", "7,7"):
        assert "EXPIRY_NOTICE_DAYS: expected descending days" in complaint({"EXPIRY_NOTICE_DAYS": wrong})


def test_push_is_told_what_it_lacks(complaint: Complaint) -> None:
    assert "APNS_KEY_ID is missing: APNS_KEY_FILE is set" in complaint({"APNS_KEY_FILE": "key.p8"})
    assert "WEBPUSH_CONTACT is missing" in complaint({"APNS_KEY_FILE": "", "WEBPUSH_VAPID_KEY_FILE": "vapid.pem"})


@pytest.mark.parametrize("name", sorted(set(CONTRACT) - set(SWITCHED_OFF) - {"RETENTION_DAYS"}))
@pytest.mark.parametrize("blank", ["", "  "])
def test_blank_means_unset(load: Load, name: str, blank: str) -> None:
    assert plain(getattr(load({name: blank}), name.lower())) == CONTRACT[name]


@pytest.mark.parametrize("name", SWITCHED_OFF)
@pytest.mark.parametrize("off", ["0", "", " "])
def test_nought_and_nothing_switch_off(load: Load, name: str, off: str) -> None:
    assert getattr(load({name: off}), name.lower()) == SWITCHED_OFF[name]


@pytest.mark.parametrize("nothing", ["", " "])
def test_without_days_nothing_is_ever_deleted(load: Load, nothing: str) -> None:
    assert load({"RETENTION_DAYS": nothing}).retention_days is None


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, "", " "])
def test_a_required_setting_that_is_missing_or_blank_is_named(
    complaint: Complaint, name: str, value: str | None
) -> None:
    assert f"{name} is missing" in complaint({name: value})


@pytest.mark.parametrize("name", ["MX_CLIENT_REDIRECT_URL", "MX_UI_MESSAGE_WEBVIEW_URL_SCHEME"])
def test_what_only_an_app_may_send_is_refused_without_one(load: Load, complaint: Complaint, name: str) -> None:
    line = complaint({name: "ledgerly://back"})
    assert name in line
    assert "MX_REFERRAL_SOURCE=APP" in line
    assert getattr(load({name: "ledgerly://back", "MX_REFERRAL_SOURCE": "APP"}), name.lower()) == "ledgerly://back"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATABASE_URL", "mysql://app:hunter2@db/app", "expected sqlite:///file or postgresql://"),
        ("DATABASE_URL", "reconnect.db", "expected sqlite:///file or postgresql://"),
        ("REDIS_URL", "amqp://app:hunter2@broker", "expected redis://"),
        ("MX_API", "platforms", "'atrium' or 'platform'"),
        ("MX_BASE_URL", "http://atrium.mx.com", "must be https"),
        ("MX_BASE_URL", "http://10.0.0.7:8080", "must be https"),
        ("MX_BASE_URL", "ftp://127.0.0.1", "must be https"),
        ("MX_BASE_URL", "atrium.mx.com", "expected a URL such as https://atrium.mx.com"),
        ("MX_BASE_URL", "https://app:hunter2@atrium.mx.com", "expected a URL"),
        ("MX_BASE_URL", "https://:hunter2@atrium.mx.com", "expected a URL"),
        ("MX_BASE_URL", "https://atrium.mx.com:hunter2", "expected a URL"),
        ("MX_BASE_URL", "https://[::1", "expected a URL"),
        ("MX_BASE_URL", "https://atrium .mx.com", "expected a URL"),
        ("MX_BASE_URL", "https://atrium.mx.com/?a=b", "expected a URL"),
        ("MX_API_KEY", "hunter2\nX: y", "no HTTP header can carry"),
        ("MX_CLIENT_ID", "hunter2\u00e9", "no HTTP header can carry"),
        ("MX_REFERRAL_SOURCE", "WEB", "'BROWSER' or 'APP'"),
        ("MX_SKIP_AGGREGATION", "perhaps", "boolean"),
        ("MX_MAX_CONNECTIONS", "2001", "less than or equal to 2000"),
        ("MX_MAX_CONNECTIONS", "many", "valid integer"),
        ("MX_REQUESTS_PER_SECOND", "0", "greater than 0"),
        ("MX_REQUESTS_PER_SECOND", "-3", "greater than 0"),
        ("MX_REQUESTS_PER_SECOND", "inf", "finite"),
        ("RECONNECT_STATUSES", "DENIED,BROKEN", "'BROKEN' is no connection_status of MX; known are CREATED, PREVENTED"),
        ("RECONNECT_STATUSES", "CONNECTED", "CONNECTED means that the member is fine"),
        ("RECONNECT_STATUSES", "DENIED,resumed", "RESUMED means that the member is fine"),
        ("SWEEP_SCHEDULE", "* * * *", "expected a crontab line"),
        ("SWEEP_SCHEDULE", "61 * * * *", "expected a crontab line"),
        ("SWEEP_SCHEDULE", "*/0 * * * *", "expected a crontab line"),
        ("SWEEP_SCHEDULE", "@hourly", "expected a crontab line"),
        ("BATCH_SIZE", "0", "greater than or equal to 1"),
        ("RUN_SECONDS", "201", "less than or equal to 200"),
        ("RETENTION_DAYS", "0", "greater than or equal to 1"),
        ("LEASE_SECONDS", "9", "greater than or equal to 10"),
        ("MAX_ATTEMPTS", "-1", "greater than or equal to 1"),
        ("URI_KEYS", "hunter2", "key 1 is not a Fernet key"),
        ("URI_KEYS", "0" * 43 + "=,hunter2", "key 2 is not a Fernet key"),
        ("URI_KEYS", ",", "URI_KEYS is missing"),
        ("NOTIFY_AFTER", "15", "expected a duration"),
        ("NOTIFY_AFTER", "-15m", "expected a duration"),
        ("NOTIFY_AFTER", "15 minutes", "expected a duration"),
        ("NOTIFY_AFTER", "101y", "expected a duration"),
        ("NOTIFY_AFTER", "40000d", "must be at most 36500d"),
        ("URI_MAX_AGE", "999999999w", "must be at most 36500d"),
        ("URI_MAX_AGE", "9" * 5000 + "d", "expected a duration"),
        ("REMINDER_DAYS", "0,three", "expected days"),
        ("REMINDER_DAYS", "1,3", "ascending days that start at 0"),
        ("REMINDER_DAYS", "0,7,3", "ascending days that start at 0"),
        ("REMINDER_DAYS", "0,3,3", "ascending days that start at 0"),
        ("REMINDER_DAYS", "0,100000", "expected days"),
        ("QUIET_HOURS", "21:00", "expected quiet hours"),
        ("QUIET_HOURS", "21-8", "expected quiet hours"),
        ("QUIET_HOURS", "24:00-08:00", "expected quiet hours"),
        ("QUIET_HOURS", "08:00-08:00", "expected quiet hours"),
        ("TIME_ZONE", "Mars/Olympus", "expected a time zone"),
        ("TIME_ZONE", "../etc/passwd", "expected a time zone"),
        ("TIME_ZONE", "Europe", "expected a time zone"),
        ("MESSAGE_CAPS", "1", "expected caps"),
        ("MESSAGE_CAPS", "0/24h", "expected caps"),
        ("MESSAGE_CAPS", "1/0", "expected caps"),
        ("MESSAGE_CAPS", "1/24h,", "expected caps"),
        ("MESSAGE_CAPS", "1/day", "expected a duration"),
        ("AMBIGUOUS_SENDS", "drop", "'hold' or 'resend'"),
        ("SMTP_CONNECTIONS", "0", "greater than or equal to 1"),
        ("SMTP_URL", "mail.example", "expected smtp://"),
        ("SMTP_URL", "http://app:hunter2@mail.example", "expected smtp://"),
        ("SMTP_URL", "smtp://app:hunter2@mail.example:many", "expected smtp://"),
        ("SMTP_URL", "smtp://app:12#hunter2@mail.example", "expected smtp://"),
        ("SMTP_URL", "smtp://app:hunter2@mail.example/inbox", "expected smtp://"),
        ("SMTP_URL", "smtp://app:hunter2@mail.example?tls=perhaps", "tls must be required, or none on loopback"),
        ("SMTP_URL", "smtp://app:hunter2@mail.example?verify=no", "the only option is tls"),
        ("SMTP_URL", "smtp://app:hunter2@mail.example?tls=none", "allowed on loopback only"),
        ("SMTP_URL", "smtp://app:hunter2@mail.example", "EMAIL_FROM is missing"),
        ("EMAIL_FROM", "no-reply", "expected name@example.com"),
        ("EMAIL_FROM", "a@b.example, c@d.example", "expected name@example.com"),
        ("EMAIL_FROM", "a@b.example\nBcc: c@d.example", "expected name@example.com"),
        ("EMAIL_REPLY_TO", "@example.com", "expected name@example.com"),
        ("PUBLIC_BASE_URL", "http://links.ledgerly.example", "must be https"),
        ("MX_WEBHOOK_AUTH", "password", "expected user:password, or bearer TOKEN"),
        ("MX_WEBHOOK_AUTH", "bearer ", "expected user:password, or bearer TOKEN"),
        ("MX_WEBHOOK_AUTH", "bearer two words", "expected user:password, or bearer TOKEN"),
        ("MX_WEBHOOK_AUTH", "mx:", "expected user:password, or bearer TOKEN"),
        ("PUBLIC_BASE_URL", "links.ledgerly.example", "expected a URL such as https://reconnect.example.com"),
        ("WEB_LISTEN", "8080", "expected host:port"),
        ("LINK_DAYS", "0", "greater than or equal to 1"),
        ("FORWARDED_ALLOW_IPS", "the proxy", "is no address or network"),
    ],
)
def test_a_bad_value_is_told_in_one_line(complaint: Complaint, name: str, value: str, says: str) -> None:
    line = complaint({name: value})
    assert says in line
    assert (name in line) or says.startswith("EMAIL_FROM")
    assert "hunter2" not in line
    assert "@" not in line.replace("name@example.com", "").replace("password@host", "").replace("# @ %", "")


def test_several_problems_are_told_together(complaint: Complaint) -> None:
    line = complaint(
        {
            "MX_API_KEY": None,
            "MX_BASE_URL": "http://atrium.mx.com",
            "MX_CLIENT_REDIRECT_URL": "https://ledgerly.example/back",
            "RECONNECT_STATUSES": "BROKEN",
            "TIME_ZONE": "Mars/Olympus",
            "URI_KEYS": "short",
            "SMTP_URL": "smtp://localhost",
            "BATCH_SIZE": "lots",
        }
    )
    for name in (
        "MX_API_KEY", "MX_BASE_URL", "MX_CLIENT_REDIRECT_URL", "RECONNECT_STATUSES", "TIME_ZONE", "URI_KEYS",
        "EMAIL_FROM", "BATCH_SIZE",
    ):  # fmt: skip
        assert name in line
    assert line.count("; ") >= 7


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "127.8.9.1", "localhost:5000", "[::1]:8080"])
def test_http_is_fine_towards_this_machine(load: Load, host: str) -> None:
    assert load({"MX_BASE_URL": f"http://{host}/"}).mx_base_url == f"http://{host}"


def test_the_base_url_may_have_a_host_outside_ascii_and_a_path(load: Load) -> None:
    assert load({"MX_BASE_URL": "https://b\u00fccher.example/mx/"}).mx_base_url == "https://b\u00fccher.example/mx"


@pytest.mark.parametrize("status", CONNECTION_STATUSES)
def test_every_status_is_known_and_all_but_the_healthy_can_be_chosen(load: Load, status: str) -> None:
    if status in {"CONNECTED", "RECONNECTED", "UPDATED", "RESUMED"}:
        with pytest.raises(SettingsError):
            load({"RECONNECT_STATUSES": status})
    else:
        assert load({"RECONNECT_STATUSES": f" {status.lower()} ,DENIED"}).reconnect_statuses[0] == status


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example", SmtpServer("mail.example", 587, None, None, "starttls")),
        ("smtps://mail.example", SmtpServer("mail.example", 465, None, None, "implicit")),
        ("smtp://a%40b:p%2Fw@mail.example:2525", SmtpServer("mail.example", 2525, "a@b", "p/w", "starttls")),
        ("smtp://mail.example?tls=required", SmtpServer("mail.example", 587, None, None, "starttls")),
        ("smtp://127.0.0.1:1025?tls=none", SmtpServer("127.0.0.1", 1025, None, None, "none")),
        ("smtp://localhost?tls=none", SmtpServer("localhost", 587, None, None, "none")),
        ("smtp://[::1]:25?tls=none", SmtpServer("::1", 25, None, None, "none")),
    ],
)
def test_a_mail_server_is_read_from_its_url(load: Load, url: str, server: SmtpServer) -> None:
    loaded = load({"SMTP_URL": url, "EMAIL_FROM": "Ledgerly <no-reply@ledgerly.example>"})
    assert loaded.smtp_server == server
    assert loaded.sender_name == "Ledgerly"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("NOTIFY_AFTER", "1h30m", timedelta(minutes=90)),
        ("URI_MAX_AGE", "90S", timedelta(seconds=90)),
        ("QUIET_HOURS", "9:30 - 17:00", QuietHours(time(9, 30), time(17))),
        ("MESSAGE_CAPS", "2/1d, 5/2w", (Cap(2, timedelta(days=1)), Cap(5, timedelta(weeks=2)))),
        ("REMINDER_DAYS", "0, 1 ,2", (0, 1, 2)),
        ("MX_ALLOWED_URI_HOSTS", "*.mx.com, *.moneydesktop.com", ("*.mx.com", "*.moneydesktop.com")),
        ("MX_REQUESTS_PER_SECOND", "2.5", 2.5),
        ("TIME_ZONE", "America/St_Johns", "America/St_Johns"),
    ],
)
def test_values_are_read_as_people_write_them(load: Load, name: str, text: str, value: object) -> None:
    assert getattr(load({name: text}), name.lower()) == value


def test_a_uri_goes_to_the_hosts_that_are_allowed(load: Load) -> None:
    assert load().uri_host_is_allowed("login.bank.example")
    chosen = load({"MX_ALLOWED_URI_HOSTS": "*.MX.com,login.bank.example"})
    assert chosen.uri_host_is_allowed("mxbank.mx.com")
    assert chosen.uri_host_is_allowed("Login.Bank.Example")
    assert not chosen.uri_host_is_allowed("mx.com.evil.example")
    assert not chosen.uri_host_is_allowed("bank.example")


def test_no_secret_shows_when_settings_are_shown(load: Load) -> None:
    secrets = {
        "DATABASE_URL": "postgresql://app:hunter2@db/app",
        "REDIS_URL": "rediss://:hunter2@broker:6379/0",
        "SMTP_URL": "smtp://app:hunter2@mail.example",
        "URI_KEYS": f"{KEY},{OLDER_KEY}",
    }
    loaded = load(secrets | {"EMAIL_FROM": "no-reply@ledgerly.example"})
    assert [key.get_secret_value() for key in loaded.uri_keys] == [KEY, OLDER_KEY]
    for shown in (repr(loaded), str(loaded), repr(loaded.smtp_server), loaded.model_dump_json()):
        for secret in ("hunter2", KEY, OLDER_KEY, REQUIRED["MX_API_KEY"], REQUIRED["MX_CLIENT_ID"]):
            assert secret not in shown


@examples(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(Settings.model_fields)),
    text=st.text(max_size=30)
    | st.text("0123456789smhdw,/:-* ", max_size=20)
    | st.text("abz:/@[]#?%.=1 ", max_size=20).map(lambda rest: f"smtp://{rest}"),
)
def test_any_text_at_all_is_taken_or_refused_in_one_line(name: str, text: str) -> None:
    values: dict[str, Any] = {key.lower(): value for key, value in REQUIRED.items()} | {name: text}
    line = ""
    try:
        load_settings(_env_file=None, **values)
    except SettingsError as error:
        line = str(error)
    assert not line or (line.isprintable() and (name.upper() in line or "EMAIL_FROM" in line))
