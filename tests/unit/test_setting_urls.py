"""Every library that reads a URL setting reads exactly what was meant, or the setting is refused and no part of it is shown."""

from typing import Any
from urllib.parse import quote

import pytest
import redis
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from kombu.utils.url import url_to_parts
from psycopg import conninfo
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from tests.conftest import make_settings
from worker.errors import SettingsError
from worker.settings import Settings
from worker.settings.urls import split
from worker.store.sql.database import database_url

#: Characters of generated passwords, and pieces of URLs.
PIECES = st.sampled_from([*"/#?@%:;,[]&=+\\'\"!$*<> ", "%41", "%zz", "@db/", "redis://", "x", "9", "é", "Zq7"])
PASSWORDS = st.lists(PIECES, min_size=1, max_size=6).map("".join).map(lambda text: f"Pw{text}5w")
SIGNING_KEY = "whsec_" + "a2V5" * 8
OWN = {
    "DATABASE_URL": "postgresql://app:{}@db.example:5433/reconnect?sslmode=require",
    "REDIS_URL": "rediss://app:{}@redis.example:6380/3",
    "SMTP_URL": "smtp://app:{}@mail.example:2525",
}


def read(name: str, settings: Settings) -> list[tuple[str | None, str | None, str | None, int | None]]:
    """User, password, host and port, as each library that uses the setting reads them."""
    if name == "DATABASE_URL":
        _, options = PGDialect_psycopg().create_connect_args(database_url(settings))
        libpq = conninfo.conninfo_to_dict(conninfo.make_conninfo("", **options))
        return [(libpq["user"], libpq["password"], libpq["host"], int(libpq["port"]))]  # type: ignore[list-item]
    if name == "REDIS_URL":
        url = settings.redis_url.get_secret_value()
        ours = redis.Redis.from_url(url).connection_pool.connection_kwargs
        celery = url_to_parts(url)
        assert celery.path == str(ours["db"]) == "3"
        return [
            (ours["username"], ours["password"], ours["host"], ours["port"]),
            (celery.username, celery.password, celery.hostname, celery.port),
        ]
    server = settings.smtp_server
    assert server is not None
    return [(server.username, server.password, server.host, server.port)]


HOSTS = {"DATABASE_URL": ("db.example", 5433), "REDIS_URL": ("redis.example", 6380), "SMTP_URL": ("mail.example", 2525)}


@pytest.mark.parametrize("name", OWN)
@examples(deadline=None, max_examples=60)
@given(password=PASSWORDS, encoded=st.booleans())
@example(password="pa/ss", encoded=False)
@example(password="p@ss", encoded=False)
@example(password="p#ss", encoded=False)
@example(password="1234/0@x", encoded=False)
def test_a_password_is_read_right_by_all_or_refused_and_not_shown(name: str, password: str, encoded: bool) -> None:
    written = quote(password, safe="") if encoded else password
    other = {"email_from": "a@b.example"} if name == "SMTP_URL" else {}
    try:
        settings = make_settings(**{name.lower(): OWN[name].format(written)}, **other)
    except SettingsError as error:
        line = str(error)
        assert not encoded, "what is percent-encoded as it must be is never refused"
        assert line.isprintable()
        assert line.startswith(f"settings: {name}: ")
        assert not any(piece in line for piece in ("Pw", "5w", "Zq7", password))
        return
    meant = written if encoded else password
    for user, found, *where in read(name, settings):
        assert user == "app"
        assert found in {password, *([] if encoded else [unquoted(meant)])}
        assert tuple(where) == HOSTS[name]


def unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


@pytest.mark.parametrize(
    ("written", "hosts", "ports"),
    [
        ("postgresql://u:p@h1:5432,h2:5433/x", "h1,h2", "5432,5433"),
        ("postgresql://u:p@h1,h2/x", "h1,h2", ","),
        ("postgresql://u:p@/x?host=h1,h2&port=1,2", "h1,h2", "1,2"),
        ("postgresql://u:p@/x?host=h1:1&host=h2:2", "h1,h2", "1,2"),
        ("postgresql://u:p@h1,h2:7/x?target_session_attrs=read-write", "h1,h2", ",7"),
        ("postgresql://u:p@%2Fvar%2Frun/x", "/var/run", None),
        ("postgres://u:p@/x?host=/var/run&port=7", "/var/run", "7"),
        ("postgresql+psycopg2://u:p@[::1]:7/x", "::1", "7"),
    ],
)
def test_the_ways_to_name_hosts_of_postgresql_reach_libpq(written: str, hosts: str, ports: str | None) -> None:
    url = database_url(make_settings(database_url=written))
    _, options = PGDialect_psycopg().create_connect_args(url)
    assert options["host"] == hosts
    assert (str(options["port"]) if "port" in options else None) == ports
    assert (options["user"], options["password"], options["dbname"]) == ("u", "p", "x")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATABASE_URL", "postgresql://app:s3cr3t@db:many/x", "expected postgresql://"),
        ("DATABASE_URL", "postgresql://app:s3cr3t@db:99999/x", "expected postgresql://"),
        ("DATABASE_URL", "postgresql://app:s3cr3t@db/x?sslmode=s3cr3t", "libpq does not take the value of its option sslmode"),
        ("DATABASE_URL", "postgresql://app:s3cr3t@db/x?s3cr3t=1", "libpq does not know one of its options"),
        ("DATABASE_URL", "postgresql://app:s3cr3t@db/x?connect_timeout=s3cr3t", "connect_timeout must be a number"),
        ("DATABASE_URL", "postgresql://app:s3cr3t@db/x?s3cr3t", "expected postgresql://"),
        ("DATABASE_URL", "postgresql://app:s3cr3t@h1,h2/x?port=1,2,3", "several hosts are"),
        ("DATABASE_URL", "postgresql://app:s3cr3t@db/x?user=a&user=b", "an option stands in it twice"),
        ("DATABASE_URL", "sqlite://s3cr3t.db", "with three slashes"),
        ("DATABASE_URL", "sqlite://", "with three slashes"),
        ("DATABASE_URL", "sqlite:///s3cr3t.db?timeout=many", "takes no options"),
        ("REDIS_URL", "redis://:s3cr3t@h/x", "the number of a database"),
        ("REDIS_URL", "redis://:pa/s3cr3t@h:6379/0", "write / ? # @ % as"),
        ("REDIS_URL", "redis://:s3cr3t@h/0?s3cr3t=1", "options are those of TLS"),
        ("REDIS_URL", "redis://:s3cr3t@h/0?ssl_cert_reqs=required", "go with rediss://"),
        ("REDIS_URL", "rediss://:s3cr3t@h/0?ssl_cert_reqs=s3cr3t", "ssl_cert_reqs must be one of"),
        ("REDIS_URL", "rediss://:s3cr3t@h/0?ssl_ca_certs=/s3cr3t", "ssl_ca_certs cannot be read"),
        ("REDIS_URL", "redis://:s3cr3t@h;redis://h2", "expected redis://"),
        ("REDIS_URL", "redis://:s3cr3t%FF@h", "expected redis://"),
        ("REDIS_URL", "redis://:s3cr3t%00@h", "expected redis://"),
        ("FCM_BASE_URL", "https://s3cr3t@fcm.example", "expected a URL"),
        ("EVENTS_URL", "https://app.example:s3cr3t/in", "EVENTS_URL: expected a URL"),
        ("EVENTS_URL", "https://u:s3cr3t@app.example/in", "EVENTS_URL: expected a URL"),
        ("EVENTS_URL", "http://app.example/s3cr3t", "must be https"),
        ("EVENTS_URL", "https://app.example/in?key=s3cr3t", "EVENTS_SECRETS is missing"),
        ("EVENTS_SECRETS", "s3cr3t", "key 1 is no key of Standard Webhooks"),
        ("EVENTS_SECRETS", "whsec_s3cr3t", "key 1 is no key of Standard Webhooks"),
        ("EVENTS_SECRETS", f"{SIGNING_KEY},whsec_s3cr3t", "key 2 is no key of Standard Webhooks"),
        ("FCM_TOKEN_URI", "http://token.example", "must be https"),
        ("APNS_BASE_URL", "api.push.apple.com", "expected a URL"),
        ("WEBPUSH_CONTACT", "us", "expected mailto:"),
        ("MX_CLIENT_REDIRECT_URL", "back to us", "expected a URL"),
        ("MX_UI_MESSAGE_WEBVIEW_URL_SCHEME", "my app", "expected a scheme"),
        ("MX_ALLOWED_URI_HOSTS", "https://*.mx.com", "without https://"),
        ("WEBPUSH_HOSTS", "push.example/path", "without https://"),
    ],
)  # fmt: skip
def test_what_a_library_would_stumble_over_later_is_refused_at_load(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_settings(mx_referral_source="APP", **{name.lower(): value})
    assert says in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2
    assert caught.value.__suppress_context__


NEEDLE = "N33dle"
SECRET = {
    "database_url", "redis_url", "smtp_url", "mx_api_key", "mx_client_id", "uri_keys", "events_url", "events_secrets",
}  # fmt: skip
TEXTS = st.text(max_size=30) | st.lists(
    st.sampled_from(["postgresql://", "redis://", "smtp://", "https://", "sqlite:///", "*/5 ", "* ", "@", ":", "/", "?", "&", "=", "[", "]", "%", "\0", "\udcff", "9" * 30, ",", "21:00-", "a"])
).map("".join)  # fmt: skip


@pytest.mark.parametrize("name", Settings.model_fields)
@examples(deadline=None, max_examples=12)
@given(text=TEXTS, form=st.sampled_from(["{}", f"{{}}{NEEDLE}", f"{NEEDLE}{{}}"]))
def test_no_text_in_any_setting_is_more_than_one_line(name: str, text: str, form: str) -> None:
    values: dict[str, Any] = {"smtp_url": "smtp://localhost", "email_from": "a@b.example", "mx_referral_source": "APP"}
    line = complaint(values | {name: form.format(text)})
    assert line.isprintable()
    assert not line or name.upper() in line or "MX_REFERRAL_SOURCE" in line or "EMAIL_FROM" in line
    if name in SECRET:
        assert NEEDLE not in line


def complaint(values: dict[str, Any]) -> str:
    try:
        make_settings(**values)
    except SettingsError as error:
        return str(error)
    return ""


def test_what_was_read_shows_no_secret_and_no_host_that_may_be_one() -> None:
    parts = split("redis://user:pa@ss@host:1/0", "")
    assert "pa@ss" not in repr(parts)
    assert parts.hosts == (("host", 1),)
    assert make_url(make_settings(database_url="postgresql://u:p@ss@db/x").database_url.get_secret_value()).host == "db"
