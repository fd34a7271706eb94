"""The owner of ``notifications`` and of their items (``notification_reconnections``).

:mod:`~worker.store.notifications.claims` has the leases (their SQL is in ``claim_statements.py``, a claimed notification in ``claimed.py``),
:mod:`~worker.store.notifications.transitions` every other write.
``policy/states.py`` has the table of the moves.
"""
