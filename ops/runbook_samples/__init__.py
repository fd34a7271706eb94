"""The situations of ``docs/runbook.md``, played: see :mod:`ops.runbook_samples.__main__`."""
