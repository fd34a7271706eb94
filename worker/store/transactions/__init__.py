"""What a stage or a command writes in one transaction, across several tables, by calling their owners.

- :mod:`~worker.store.transactions.fetch`, :mod:`~worker.store.transactions.deliver`, :mod:`~worker.store.transactions.verify`,
  :mod:`~worker.store.transactions.hints`: one for each stage; a stage with more to settle has its results beside it;
- :mod:`~worker.store.transactions.visit`: what follows for members from the rule now; a sweep and a reconciliation visit them by it,
  and :mod:`~worker.store.transactions.catch_up` a few members at once;
- :mod:`~worker.store.transactions.click`: the beginning and the end of a click; :mod:`~worker.store.transactions.opt_out`: a link
  by which a user stops messages; :mod:`~worker.store.transactions.retry`: `reconnect retry`;
- :mod:`~worker.store.transactions.retention` and :mod:`~worker.store.transactions.forget`: deleting what is over, and what is a user's.
"""
