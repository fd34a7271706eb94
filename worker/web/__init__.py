"""The web process: the pages behind a customer's link, MX's webhooks, and the API.

- ``app`` has the routes; ``serve`` runs the process (`reconnect web`); ``protocol`` sets time limits and answers invalid HTTP.
- ``links`` serves ``/r/{token}``, ``optout`` ``/u/{token}``, ``done`` the end of OAuth, ``health`` probes and `doctor`.
- ``webhooks`` serves ``/webhooks/mx``; ``credentials`` checks who sends, ``intake`` stores hints in micro-batches.
- ``api`` serves ``/api/v1``, for programs; ``openapi`` describes it, ``problems`` has its errors.
- ``guard`` runs before all handlers: host, limits per address, errors, access log. ``limits`` counts requests, ``client`` finds the
  client's address, ``overload`` refuses requests when too many wait.
- ``texts`` has the templates, ``wording`` their variables, ``pages`` the answers made of them, ``headers`` the headers of every answer.

Decisions about reconnections are made in :mod:`worker.stages`, not here.
"""
