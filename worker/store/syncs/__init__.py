"""The owner of ``syncs``, ``sync_users`` and ``sync_missing``: a sync lists all users and members at MX.

The database is the queue. A page of users is stored together with the checkpoint behind it. Then each user's members are read, and written
together with the mark that the user is done. So if a sync was killed, the process that continues it repeats only the requests that were
under way.

At most one sync is unfinished (``syncs.unfinished`` is unique). One worker at a time has its lease, with an epoch as everywhere.

======================= ===================================================================
:mod:`.sync`            the values: a sync, its findings, members to read, and answers
:mod:`.holding`         its lease: beginning, taking over, renewing and ending a sync
:mod:`.store`           its steps, a transaction each
:mod:`.statements`      the statements of these steps about many rows
======================= ===================================================================
"""
