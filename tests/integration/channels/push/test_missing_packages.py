"""Who installed without push is told so in one line."""

import subprocess
import sys

import pytest

_IMPORT = """
import sys
sys.modules[sys.argv[2]] = None
from worker.errors import WorkerError
try:
    __import__(sys.argv[1])
except WorkerError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "package", "line"),
    [
        (
            "worker.channels.push.fcm.channel",
            "google.auth",
            "push by FCM needs: pip install 'reconnection-worker[push]'",
        ),
        ("worker.channels.push.fcm.channel", "requests", "push by FCM needs: pip install 'reconnection-worker[push]'"),
        ("worker.channels.push.apns.channel", "httpx", "push by APNs needs: pip install 'reconnection-worker[push]'"),
        ("worker.channels.push.apns.channel", "h2", "push by APNs needs: pip install 'reconnection-worker[push]'"),
        (
            "worker.channels.push.webpush.channel",
            "pywebpush",
            "push to browsers needs: pip install 'reconnection-worker[push]'",
        ),
        (
            "worker.channels.push.webpush.channel",
            "py_vapid",
            "push to browsers needs: pip install 'reconnection-worker[push]'",
        ),
    ],
)
def test_a_missing_package_is_one_line(module, package, line):
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORT, module, package], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == line


@pytest.mark.parametrize("channel", ["fcm", "apns", "webpush"])
def test_a_configuration_needs_no_package(channel):
    script = "import sys\nfor name in ('google', 'httpx', 'h2', 'pywebpush', 'py_vapid', 'requests'): sys.modules[name] = None\n"
    script += f"import worker.channels.push.{channel}.config"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


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
