"""An MX look-alike and a mailbox, to develop, demonstrate, test and measure against.

It runs in a process of its own, listens on loopback only and knows nothing of the worker: any MX client and any mail sender
can be pointed at it. The product never imports it, except the commands that start it (:func:`worker.sandbox.server.serve`).

What lies below ``/users`` is MX's interface; ``/oauth/authorize`` stands in for a bank's consent page; everything below
``/sandbox`` (ledger, control, mail) is the sandbox's own and does not exist at MX.
"""
