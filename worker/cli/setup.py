"""`init`, `migrate`, `doctor`, `rotate-keys`: install the worker, and find out why it does not run."""

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import typer
from cryptography.fernet import Fernet

from worker.cli.session import AsJson, out, print_json, styled
from worker.errors import UsageError
from worker.settings import Settings, load_settings
from worker.settings.env_file import quoted
from worker.settings.push import PushSettings


def add_to(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(migrate)
    app.command()(doctor)
    app.command()(rotate_keys)


def init(path: Path = typer.Argument(Path(".env"), help="Where to write it.")) -> None:
    """Write a .env with generated keys, every setting commented."""
    text = dotenv()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} is there already; it may hold keys that stored URIs need. Move it away first"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    out.print(f"Wrote {path}, readable by you alone. Fill in MX_API_KEY and MX_CLIENT_ID; then `reconnect migrate`.")


def dotenv() -> str:
    """The text of a ``.env``. A setting with a default is commented out with that default; a required one is left empty."""
    lines = [
        "# Settings of the reconnection worker. Commented lines show defaults. Put 'single quotes' around a value with spaces.",
        "",
    ]
    fields = sorted(Settings.model_fields.items(), key=lambda item: item[0] in PushSettings.model_fields)
    for name, field in fields:
        lines += [f"# {line}" for line in textwrap.wrap(field.description or "", 100)]
        if name == "uri_keys":
            lines.append(f"URI_KEYS={Fernet.generate_key().decode()}")
        elif field.is_required():
            lines.append(f"{name.upper()}=")
        else:
            lines.append(f"# {name.upper()}={quoted(_DEFAULTS.get(name, _default_text(field.default)))}")
        lines.append("")
    return "\n".join(lines)


#: Defaults whose text in a ``.env`` differs from Python's ``str``.
_DEFAULTS = {
    "database_url": "sqlite:///reconnect.db",
    "redis_url": "redis://127.0.0.1:6379/0",
    "notify_after": "15m",
    "quiet_hours": "21:00-08:00",
    "message_caps": "1/24h,3/7d",
    "uri_max_age": "15m",
    "push_ttl": "3d",
}


def _default_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def migrate() -> None:
    """Bring the database to the newest schema."""
    from worker.store.sql import schema

    before, after = schema.migrate(load_settings())
    out.print(
        f"The schema is at {after} already." if before == after else f"Migrated from {before or 'nothing'} to {after}."
    )


def rotate_keys(*, as_json: bool = AsJson) -> None:
    """Encrypt every stored URI with the first of URI_KEYS; may be interrupted and run again."""
    from rich.progress import Progress

    from worker.cli.session import aside, run
    from worker.runtime import Runtime
    from worker.store.windows import RotationStore

    async def job(runtime: Runtime) -> dict[str, int]:
        store, last, rotated = RotationStore(runtime.database, runtime.vault), 0, 0
        with Progress(console=aside) as progress:
            bar = progress.add_task("re-encrypting", total=await store.remaining())
            while True:
                end, seen, changed = await store.rotate_after(last)
                progress.advance(bar, seen)
                rotated += changed
                if end is None:
                    return {"rotated": rotated}
                last = end

    counts = run(job)
    if as_json:
        print_json(counts)
    else:
        out.print(f"Re-encrypted {counts['rotated']} URIs. All keys but the first may now be removed from URI_KEYS.")


def doctor(*, as_json: bool = AsJson) -> None:
    """Check database, schema, keys, broker, workers, sweeps, MX, channels, public address, and whether due messages can be sent; a health check."""
    from worker.cli.checks import examine

    findings = examine(load_settings())
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    failed = any(finding["ok"] is False for finding in findings)
    if any(finding.get("hangs") for finding in findings):
        # A normal exit would wait for executor threads that hang.
        sys.stdout.flush()
        os._exit(1)
    if failed:
        raise typer.Exit(1)


def _print(findings: list[dict[str, Any]]) -> None:
    marks = {True: ("ok  ", "green"), False: ("FAIL", "red"), None: ("--  ", "yellow")}
    for finding in findings:
        out.print(styled(marks[finding["ok"]], f" {finding['check']:<9} {finding['says']}"))
