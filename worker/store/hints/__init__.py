"""Hints of MX's webhooks: storing them as they come, the leases under which their members are read, and what remains of them.

======== =======================================================================================================================
a hint   means
======== =======================================================================================================================
`due`    its member is to be read at ``next_attempt_at``
`leased` a worker is reading it, until its lease expires
`done`   MX was asked about its member, or there is nobody to ask about (`no_user`, `no_member`); kept for two days, to be shown
`failed` MX rejects the request, every attempt failed, or its workers died; kept as long
`unused` it is no JSON object, or names neither a member nor a user; kept as long
======== =======================================================================================================================

All due hints of one member are claimed together, and none while its member is being read for others or was within three
seconds: two readings of a member could be applied in the wrong order, and MX asks for that interval.

A hint that comes again while it is leased is due once more after that: what it tells may have happened after the reading. The count
``times`` shows it.

``arriving`` stores, ``claims`` leases and finishes, ``claimed`` is what a worker holds. The transactions are in ``store/transactions/hints.py``.
"""
