"""The web process: what a customer's link leads to.

- ``app`` puts it together; ``serve`` runs it (`reconnect web`); ``protocol`` is HTTP itself: time limits, requests that are no HTTP.
- ``links`` is ``/r/{token}``, ``optout`` is ``/u/{token}``, ``done`` the end of OAuth, ``health`` what probes and ``doctor`` ask.
- ``webhooks`` is ``/webhooks/mx``: ``intake`` stores what came in micro-batches, ``credentials`` compares what MX sends with it.
- ``api`` is ``/api/v1``, for programs; ``openapi`` describes it, ``problems`` are its refusals.
- ``guard`` stands before all of them: host, limits per address, errors, access log. ``limits`` counts, ``client`` tells who asks.
- ``texts`` are the templates, ``wording`` fills them in, ``pages`` makes answers of them, ``headers`` are those that every answer has.

Nothing here decides: that is done by :mod:`worker.stages`.
"""
