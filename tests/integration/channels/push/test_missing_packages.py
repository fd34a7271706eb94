"""If the packages for push are not installed, one line says so."""

import json
import subprocess
import sys

#: Imports each module in its own fork, so that no earlier import hides a missing package.
_IMPORTS = """
import json, os, sys
from worker.errors import WorkerError
for module, packages in json.loads(sys.argv[1]):
    if os.fork() == 0:
        sys.modules.update(dict.fromkeys(packages))
        try:
            __import__(module)
            print("imported", flush=True)
        except WorkerError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
"""


def imported(*tried):
    """The line that importing each module prints if its packages are missing."""
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORTS, json.dumps(tried)], capture_output=True, text=True, check=True, timeout=60
    )
    return ran.stdout.splitlines()


def test_a_missing_package_is_one_line():
    fcm, apns, webpush = (f"worker.channels.push.{channel}.channel" for channel in ("fcm", "apns", "webpush"))
    assert imported(
        (fcm, ["google.auth"]),
        (fcm, ["requests"]),
        (apns, ["httpx"]),
        (apns, ["h2"]),
        (webpush, ["pywebpush"]),
        (webpush, ["py_vapid"]),
    ) == [
        *["push by FCM needs: pip install 'reconnection-worker[push]'"] * 2,
        *["push by APNs needs: pip install 'reconnection-worker[push]'"] * 2,
        *["push to browsers needs: pip install 'reconnection-worker[push]'"] * 2,
    ]


def test_a_configuration_needs_no_package():
    packages = ["google", "httpx", "h2", "pywebpush", "py_vapid", "requests"]
    tried = [(f"worker.channels.push.{channel}.config", packages) for channel in ("fcm", "apns", "webpush")]
    assert imported(*tried) == ["imported"] * 3


_DEMO = ["demo", "--dir", "d"], "reconnect: demo: its phones need: pip install 'reconnection-worker[push]'"
_SANDBOX = (
    ["sandbox", "--phones", "keys", "--http-port", "0", "--smtp-port", "0"],
    "reconnect: sandbox: phones need: pip install 'reconnection-worker[push]'",
)
#: Runs each command in its own fork. The forked process has already imported the other packages that the commands need, which saves time.
_COMMANDS = """
import json, os, sys
import aiohttp.web, aiosmtplib, alembic.command, celery, pydantic_settings, redis, rich, sqlalchemy.ext.asyncio, typer
import worker.cli.setup, worker.runtime, worker.store.sql.schema
from worker.cli import main
for package, arguments in json.loads(sys.argv[1]):
    if os.fork() == 0:
        assert package not in sys.modules, package
        sys.modules[package] = None
        sys.argv = ["reconnect", *arguments]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        print(code, file=sys.stderr, flush=True)
        os._exit(0)
    os.wait()
"""


def test_phones_without_their_packages_are_one_line(tmp_path):
    tried = [(package, *_DEMO) for package in ("google", "httpx", "h2", "pywebpush")]
    tried += [(package, *_SANDBOX) for package in ("h2", "http_ece")]
    ran = subprocess.run(
        [sys.executable, "-c", _COMMANDS, json.dumps([(package, arguments) for package, arguments, _ in tried])],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert ran.stderr.splitlines() == [said for *_, line in tried for said in (line, "1")]
