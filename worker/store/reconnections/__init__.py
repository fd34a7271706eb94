"""The owner of ``reconnections``: only this package inserts into the table and updates it.

- :mod:`~worker.store.reconnections.opening`: opening them, for broken members and ahead of an expiry;
- :mod:`~worker.store.reconnections.claims`: leases; :mod:`~worker.store.reconnections.checks`: checks of members;
- :mod:`~worker.store.reconnections.transitions`: every move between states;
- :mod:`~worker.store.reconnections.closing`: what else happens when one closes.

``policy/states.py`` has the table of the moves: who makes each, and what else happens.
"""
