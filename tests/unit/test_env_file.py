"""``.env`` is read whole or refused in one line. A value that we wrote reads the same in our worker, honcho, python-dotenv and a shell."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from honcho.environ import parse as honcho
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import URI_KEY
from worker.cli.setup import dotenv
from worker.errors import SettingsError
from worker.settings import Settings, load_settings
from worker.settings.env_file import misspelt_names, quoted, read_env_file

GOOD = f"MX_API_KEY=k\nMX_CLIENT_ID=c\nURI_KEYS={URI_KEY}\n"


def test_nothing_in_it_is_interpolated(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        GOOD + "DATABASE_URL=postgresql://app:a${HOME}b$PATH@db/x\nEMAIL_FROM='A $HOME <a@b.example>'\n"
    )
    settings = load_settings(_env_file=tmp_path / ".env")
    assert settings.email_from == "A $HOME <a@b.example>"
    assert "%24%7BHOME%7D" in settings.database_url.get_secret_value()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfeM\0X\0", "looks like UTF-16; save it as UTF-8"),
        ("MX_API_KEY=ké\n".encode("utf-16-be"), "looks like UTF-16"),
        ("# fine\nMX_API_KEY=caf\u00e9-s3cr3t\n".encode("latin-1"), "line 2 is not UTF-8"),
        (b"MX_API_KEY=k\nMX_CLIENT_ID='s3cr3t\n", "line 2 is not NAME=value"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_one_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / ".env"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_settings(_env_file=path)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert "s3cr3t" not in str(caught.value)


def test_a_link_to_nothing_is_not_the_same_as_no_file(tmp_path: Path) -> None:
    assert read_env_file(tmp_path / ".env") == {}
    (tmp_path / ".env").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="a link to a file that is not there"):
        read_env_file(tmp_path / ".env")


def test_a_mark_of_byte_order_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_settings(_env_file=tmp_path / ".env").mx_api_key.get_secret_value() == "k"


def by_a_shell(text: str, name: str, folder: Path) -> str:
    (folder / "file").write_text(text, encoding="utf-8")
    ran = subprocess.run(
        ["/bin/sh", "-c", f'. ./file; printf %s "${name}"'], cwd=folder, capture_output=True, check=True, timeout=10
    )
    return ran.stdout.decode()


@given(value=st.text(st.sampled_from([*"abé *<>#$'\"\\=@%&;|`!~{}[]()"]) | st.characters(codec="utf-8"), max_size=20))
def test_what_is_written_says_the_same_to_all_who_read_it(tmp_path_factory: Any, value: str) -> None:
    try:
        line = f"NAME={quoted(value)}"
    except ValueError:
        assert not value.isprintable() or "\\n" in value or "\\t" in value
        return
    path = tmp_path_factory.getbasetemp() / "dotenv"
    path.write_text(line + "\n", encoding="utf-8")
    assert read_env_file(path) == {"NAME": value}
    assert honcho(line).get("NAME", "") == value
    assert dotenv_values(path, interpolate=False)["NAME"] == value


@pytest.mark.parametrize(
    "value", ["*/5 * * * *", "Sandbox <no-reply@sandbox.example>", "$HOME `id` #1", 'say "hi"', "it's", "a\\b"]
)
def test_a_shell_reads_it_alike(tmp_path: Path, value: str) -> None:
    assert by_a_shell(f"NAME={quoted(value)}", "NAME", tmp_path) == value


def test_what_init_writes_says_the_same_to_honcho_and_holds_the_defaults(tmp_path: Path) -> None:
    text = dotenv()
    lines = [
        line.removeprefix("# ") for line in text.splitlines() if line.removeprefix("# ").partition("=")[0].isupper()
    ]
    assert len(lines) == len(Settings.model_fields)
    path = tmp_path / ".env"
    path.write_text("\n".join(lines).replace("MX_API_KEY=", "MX_API_KEY=k").replace("MX_CLIENT_ID=", "MX_CLIENT_ID=c"))
    assert {name: value for name, value in read_env_file(path).items() if value} == honcho(path.read_text())
    loaded = load_settings(_env_file=path)
    for name, field in Settings.model_fields.items():
        assert field.is_required() or getattr(loaded, name) == field.default, name


def test_under_honcho_the_file_says_what_it_says_to_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD + "SWEEP_SCHEDULE=*/7 * * * *\nEMAIL_FROM=Sandbox <a@b.example>\nAPP_NAME=Acme #1\nTIME_ZONE=UTC\n"
    (tmp_path / ".env").write_text(text)
    monkeypatch.setenv("HONCHO_PROCESS_NAME", "worker.1")
    for name, value in honcho(text).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIME_ZONE", "Europe/Madrid")  # not set by honcho
    settings = load_settings(_env_file=tmp_path / ".env")
    assert settings.sweep_schedule == "*/7 * * * *"
    assert settings.email_from == "Sandbox <a@b.example>"
    assert settings.time_zone == "Europe/Madrid"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MX_APIKEY", "MX_API_KEY"), ("QUIET_HOUR", "QUIET_HOURS"), ("mx_client", "MX_CLIENT_ID"), ("DATABSE_URL", "DATABASE_URL"),
        ("SMTP_HOST", "SMTP_URL"), ("SMTP_PASSWORD", "SMTP_URL"), ("SMTP_CONNECTION", "SMTP_CONNECTIONS"), ("REMINDERS_DAYS", "REMINDER_DAYS"),
        ("MX_URL", "MX_BASE_URL"),
    ],
)  # fmt: skip
def test_a_misspelt_name_in_the_file_is_told_with_the_nearest(name: str, nearest: str) -> None:
    assert misspelt_names(Settings.model_fields, [name], []) == [
        f".env: {name.upper()} is no setting; the nearest one is {nearest}"
    ]


def test_the_environment_is_everybodys_and_only_what_is_very_like_is_told() -> None:
    others = [
        "PATH",
        "SMTP_HOST",
        "REDIS_HOST",
        "REDIS_PORT",
        "DATABASE_NAME",
        "TZ",
        "LANG",
        "APP_ENV",
        "WORKER_CHILDREN",
        "FLOWER_PORT",
    ]
    assert misspelt_names(Settings.model_fields, [], others) == []
    assert misspelt_names(Settings.model_fields, [], ["DATABASE_URI", "DATABASE_URL"]) == []
    assert len(misspelt_names(Settings.model_fields, [], ["MX_APIKEY"])) == 1


def test_it_is_told_once_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".env").write_text(GOOD + "QUIET_HOURZ=\n")
    for _ in range(2):
        load_settings(_env_file=tmp_path / ".env")
    assert capsys.readouterr().err == (
        "settings: warning: .env: QUIET_HOURZ is no setting; the nearest one is QUIET_HOURS\n"
    )
