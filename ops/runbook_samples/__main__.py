"""Provokes the situations of ``docs/runbook.md`` and prints what an operator then sees: `status`, `doctor`, the logs, Flower.

::

    .venv/bin/python -m ops.runbook_samples                      # all of them, some ten minutes
    .venv/bin/python -m ops.runbook_samples mx_refuses poison    # these

Everything is real (Celery, Valkey, PostgreSQL, Flower, SMTP) and on loopback; the bank is the sandbox. What the runbook quotes is
copied from here, so whoever changes a line that operators read runs this again. (What a single command says on wrong input, such as
an import with bad rows, is in ``tests/acceptance``.)
"""

import sys

from ops.runbook_samples import at_mx, decisions, mail, processes  # noqa: F401 - they register their situations
from ops.runbook_samples.scene import SITUATIONS, scene_of_its_own


def main(names: list[str]) -> None:
    """Run these, or all."""
    for name in names or SITUATIONS:
        print(f"\n=== {name}", flush=True)
        with scene_of_its_own() as scene:
            SITUATIONS[name](scene)


if __name__ == "__main__":
    main(sys.argv[1:])
