"""An MX look-alike and a mailbox, for development, demonstrations, tests and measurements.

It runs in a process of its own, listens on loopback only and does not depend on the worker: any MX client and any mail sender can use
it. The product never imports it, except the commands that start it (:func:`worker.sandbox.server.serve`).

``/users`` is MX's API. ``/oauth/authorize`` is a bank's consent page. Everything below ``/sandbox`` (ledger, control, mail) is the
sandbox's own and does not exist at MX.
"""
