"""The owner of ``syncs``, ``sync_users`` and ``sync_missing``: one listing of all users and members, its checkpoint and what is left of it.

The database is the queue: a page of users is stored together with the checkpoint behind it, then each user's members are read and
written together with the mark that the user is done. So whoever goes on with a killed sync asks MX only for what was being asked.

One sync is unfinished at most (``syncs.unfinished`` is unique), and one worker holds it: lease and epoch as everywhere.

======================= ===================================================================
:mod:`.sync`            what a sync is and what it found; what is to be read, and what was
:mod:`.holding`         who holds it: begun, taken, renewed, ended
:mod:`.store`           its steps, a transaction each
:mod:`.statements`      their statements about many rows
======================= ===================================================================
"""
