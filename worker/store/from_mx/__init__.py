"""Writes MX's answers about users and members into ``users`` and ``members``: a batch in one transaction, and only what differs.

Columns that only the application knows are not touched: locale, time zone, channel, every ``token_*``, a name of the institution, an address
unless it is empty. Exception: where MX's answer closes a reconnection as `reconnected`, the dates of the token that it disproves are
cleared, as in verify (``store/members.py``).

===================================== =================================================================================
MX says                               what becomes of it
===================================== =================================================================================
a member that we do not have          it is inserted, and so is its user
status, OAuth flag, institution code  they go into the row; what MX leaves out keeps its value
an error code                         it goes into the row. MX names none although it could: 2004 and 2005 are cleared
another GUID than the row has         ``moved_to`` of the row, and of its open reconnection; the row keeps its GUID
a member of which it had said 404     ``gone_at`` is cleared. If that 404 had ended a reconnection as `gone`, a sweep may open another
well again, a reconnection is open    closed as `reconnected` by the rule of verify (``policy/recovery.py``). A claimed
                                      one is left to its worker, which asks MX as well
another user than our row has         nothing: the row is kept, and counted
managed by a partner                  nothing: it is counted
asked for before a reconnection ended  nothing: the answer is out of date
===================================== =================================================================================

==================  ===========================================================================
:mod:`.answers`     users and members as MX gives them, our rows, and where the two differ
:mod:`.our_rows`    finds the rows of ``members`` that answers are about
:mod:`.members`     writes answers about members, closes what is over, and marks members as gone
:mod:`.users`       inserts users, and fills empty addresses
==================  ===========================================================================
"""
