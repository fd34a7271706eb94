"""Who installed without push is told so in one line."""

import json
import subprocess
import sys

import pytest

#: Each in a fork of its own of a process that has imported nothing yet of what it tries.
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
    """The line about each module, where these packages are missing."""
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


@pytest.mark.parametrize(
    ("package", "arguments", "line"),
    [(package, *_DEMO) for package in ("google", "httpx", "h2", "pywebpush")]
    + [(package, *_SANDBOX) for package in ("h2", "http_ece")],
)
def test_phones_without_their_packages_are_one_line(tmp_path, package, arguments, line):
    script = f"import sys\nsys.modules[{package!r}] = None\nfrom worker.cli import main\nmain()"
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert (ran.returncode, ran.stderr.strip()) == (1, line)
