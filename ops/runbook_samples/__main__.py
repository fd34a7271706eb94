"""Provokes the situations of ``docs/runbook.md`` and prints the output that an operator gets: `status`, `doctor`, the logs, Flower.

::

    .venv/bin/python -m ops.runbook_samples                      # all of them: about ten minutes
    .venv/bin/python -m ops.runbook_samples mx_refuses poison    # only these

All servers are real (Celery, Valkey, PostgreSQL, Flower, SMTP) and on loopback; the bank is the sandbox. The runbook quotes this
output, so run this again after a change of a line that operators read. (The output of single commands on wrong input, such as an
import with bad rows, is in ``tests/acceptance``.)
"""

import sys

from ops.runbook_samples import at_mx, decisions, mail, processes  # noqa: F401 - they register their situations
from ops.runbook_samples.scene import SITUATIONS, scene_of_its_own


def main(names: list[str]) -> None:
    """Run these situations, or all."""
    for name in names or SITUATIONS:
        print(f"\n=== {name}", flush=True)
        with scene_of_its_own() as scene:
            SITUATIONS[name](scene)


if __name__ == "__main__":
    main(sys.argv[1:])
