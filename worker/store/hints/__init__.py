"""Hints from MX's webhooks: storing them, the leases under which their members are read, and their results.

======== =======================================================================================================================
a hint   means
======== =======================================================================================================================
`due`    its member is to be read at ``next_attempt_at``
`leased` a worker is reading it, until its lease expires
`done`   MX was asked about its member, or there is nobody to ask about (`no_user`, `no_member`); kept for two days, to be shown
`failed` MX rejects the request, every attempt failed, or its workers died; kept as long
`unused` it is not a JSON object, or names neither a member nor a user; kept as long
======== =======================================================================================================================

All due hints of one member are claimed together. None is claimed while its member is being read for other hints, or within three seconds
after a reading: two readings could be applied in the wrong order, and MX asks for that interval.

A hint that comes again while it is leased is due once more afterwards, since it may tell of something after the reading. The count ``times``
shows that it came again.

``arriving`` stores hints, ``claims`` leases and finishes them, ``claimed`` has the values that a worker works with. The
transactions are in ``store/transactions/hints.py``.
"""
