"""Provokes the situations of ``docs/runbook.md``: see :mod:`ops.runbook_samples.__main__`."""
