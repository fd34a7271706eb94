"""The owner of ``reconnections``: every INSERT and UPDATE of the table stands in this package.

- :mod:`~worker.store.reconnections.opening`: new ones, of broken members and ahead of an expiry;
- :mod:`~worker.store.reconnections.claims`: leases, and which members are checked;
- :mod:`~worker.store.reconnections.transitions`: every move between states;
- :mod:`~worker.store.reconnections.closing`: what else happens when one closes.

``policy/states.py`` has the table of the moves: who makes each, and what else happens.
"""
