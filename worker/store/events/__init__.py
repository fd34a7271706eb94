"""The owner of ``events``, the outbox of what the application is told.

- :mod:`~worker.store.events.recording`: written in the transaction of what they tell, only if ``EVENTS_URL`` is set;
- :mod:`~worker.store.events.queue`: claimed, posted in order, accepted, given up, replayed.
"""
