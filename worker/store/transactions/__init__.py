"""Transactions of a stage or a command across several tables. They call the owners of the tables.

- :mod:`~worker.store.transactions.fetch`, :mod:`~worker.store.transactions.deliver`, :mod:`~worker.store.transactions.verify`,
  :mod:`~worker.store.transactions.hints`: one for each stage; a stage with more to settle has its results beside it;
- :mod:`~worker.store.transactions.visit`: applies the rule to members, for sweeps and reconciliations;
  :mod:`~worker.store.transactions.catch_up`: the same at once for a few members;
- :mod:`~worker.store.transactions.click`: the beginning and the end of a click; :mod:`~worker.store.transactions.opt_out`: a link
  by which a user stops messages; :mod:`~worker.store.transactions.retry`: `reconnect retry`;
- :mod:`~worker.store.transactions.retention` and :mod:`~worker.store.transactions.forget`: deleting old rows, and a user's rows.
"""
