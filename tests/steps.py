"""``python -m tests.steps JSON`` runs several `reconnect` commands in one process: starting a process takes longer than most of them.

JSON: a list of pairs, the words of a command and an environment for it. It prints a list of pairs: exit code and output.
"""

import contextlib
import io
import json
import os
import sqlite3
import sys
import traceback
from typing import Any

from worker.cli import main


def _run(arguments: list[str]) -> Any:
    try:
        if arguments[0] == "sql":
            with contextlib.closing(sqlite3.connect("reconnect.db", timeout=30)) as database, database:
                database.execute(" ".join(arguments[1:]))
        else:
            main()
    except SystemExit as end:
        return end.code
    except BaseException:  # noqa: BLE001 - printed, as an interpreter does
        traceback.print_exc()
        return -1
    return 0


if __name__ == "__main__":
    ran = []
    for arguments, environment in json.loads(sys.argv[1]):
        output, before = io.StringIO(), dict(os.environ)
        os.environ.update(environment)
        sys.argv = ["reconnect", *arguments]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = _run(arguments)
        os.environ.clear()
        os.environ.update(before)
        ran.append([code, output.getvalue()])
    print(json.dumps(ran))
