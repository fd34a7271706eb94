"""What `status`, `explain`, `preview`, `doctor` and the reports read. Nothing here writes.

Also which user or member somebody means (:mod:`~worker.store.queries.lookup`).
"""
