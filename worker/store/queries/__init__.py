"""Queries of pages, commands and the API: `status`, `explain`, `preview`, `doctor`, the customer's page.

Nothing here writes, except that :mod:`~worker.store.queries.to_reconnect` stores the link of its answer. :mod:`~worker.store.queries.lookup`
finds which user or member an operator means.
"""
