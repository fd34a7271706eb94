"""The owner of ``events``, the outbox of events for the application.

- :mod:`~worker.store.events.recording`: writes events in the transaction that they tell about, if ``EVENTS_URL`` is set;
- :mod:`~worker.store.events.queue`: claims events in order, stores whether they were accepted or given up, and replays them.
"""
