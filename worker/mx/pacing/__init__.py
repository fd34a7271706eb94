"""How fast MX is asked: so many requests a second by all processes together, not before a moment that MX named, and by each
process no more side by side than MX takes well.

::

    pacing = Pacing(settings())
    async with pacing.turn(within=45.0) as turn:  # waits for a place and for its moment; raises NoTurn
        answer = …
        turn.heard(answer)

====================  ==============================================================================================
:mod:`.permits`         who may go, and when: the part that others use
:mod:`.ledger`        what all processes share, in Redis
:mod:`.schedule`      the moments at which this process may send
:mod:`.concurrency`        how many requests this process keeps in flight
====================  ==============================================================================================
"""

from worker.mx.pacing.permits import NoPermit, Pacing, Permit

__all__ = ["NoPermit", "Pacing", "Permit"]
