"""How fast MX is asked. Three mechanisms, each for one question:

- **How many requests a second, by all processes together?** GCRA in Redis (the generic cell rate algorithm, a token bucket without a
  burst). The ledger, a text in Redis, holds the next free moment. A process reserves *n* moments from there on and sends one
  request at each. Off unless ``MX_REQUESTS_PER_SECOND`` is set. The ledger also holds the moment until which MX asked for silence.
- **How many requests at once, by this process?** AIMD (additive increase, multiplicative decrease): the limit begins at
  ``MX_MAX_CONNECTIONS``, is cut to 0.7 of itself by a 429 or a timeout, and grows back by 4 with each round that goes well.
- **What if Redis is away?** A fallback share: each process keeps to the rate divided by the number of processes that it last saw.

A click goes before all other requests, because a user waits. Its permit (``urgent=True``) takes the present moment although others
have reserved it, and makes the next free moment one interval later. Moments that were reserved before, up to 1.25 s ahead, are still
used. So the rate may be exceeded for 1.25 s, by one request for each click. Urgent moments are one interval apart as well: clicks alone
do not exceed the rate, and those that come faster wait for each other. While MX asks for silence, a click is refused at once. While
Redis is away, a click takes a moment of its process's own share. Example with 50 a second: five clicks that are at least 21 ms apart
go at once. The moments that are reserved after them come 103 ms later than they would have.

A sync has the lowest priority (``wait_behind_others``). It reserves only moments at most 50 ms ahead. Other processes reserve their next
moments 100 ms before theirs end. So while fetch uses the whole rate, the sync gets none. When fetch is done, the sync gets all of it.

Each request takes a permit of its own: the retries within a call (:mod:`worker.mx.retrying`) take one each, and so does a list of users
that proves that MX answers (:mod:`worker.mx.client`).

By default only the second mechanism works: no rate, and 200 requests at once in each process. A silence that MX asks for holds for all
processes: ``Retry-After`` of a 429 or 503, at most 1 h; 1 s for a 429 without it. When MX serves nobody, the breaker
(:mod:`worker.stages.breaker`) stops all calls but one probe and clicks. MX itself answers 429 above 2,000 connections from one address.

Example: ``MX_REQUESTS_PER_SECOND=50``, ``MX_MAX_CONNECTIONS=200``, two processes, a call takes 0.4 s.

1. 0.97 of the rate is used, so moments are 1/48.5 s = 20.6 ms apart.
2. At 12:00:00.000 process A reserves 24 moments, up to 12:00:00.474. A moment later B reserves 24, from 12:00:00.495 to 12:00:00.969.
   Neither may take more than one second's share (24) at once, nor a moment more than 1.25 s ahead.
3. Each has about 10 requests in flight (24 a second, 0.4 s each). The limit of 200 is not reached.
4. MX answers one call with 429 and ``Retry-After: 5``. That process cuts its limit from 200 to 140 and writes "no request for 5 s"
   into Redis. The other reads it within about a second. Moments that fall into the silence are dropped.
5. Redis dies. Each process goes on with 48.5 / 2 = 24 requests a second of its own. It begins after 1.25 s, when all moments that
   others reserved have passed. A process that never reached Redis counts on 8 processes and sends 6 a second.

Use::

    pacing = Pacing(settings())
    async with pacing.permit(within=45.0) as permit:  # waits for a slot and a moment; raises NoPermit
        answer = …
        permit.heard(answer)

=====================  =========================================================================
:mod:`.pacing`         what the rest of the worker calls
:mod:`.permit`         the permit of one request, and what its answer says of MX
:mod:`.permit_queue`   who waits for a permit: lines in order, a slot and a moment for each request
:mod:`.ledger`         GCRA: what all processes share, in Redis
:mod:`.source`         moments from the ledger, or from the fallback share while Redis is away
:mod:`.schedule`       the moments that this process holds, and those that it missed
:mod:`.concurrency`    AIMD: how many requests this process keeps in flight
=====================  =========================================================================
"""

from worker.mx.pacing.pacing import Pacing
from worker.mx.pacing.permit import Permit
from worker.mx.pacing.permit_queue import NoPermit

__all__ = ["NoPermit", "Pacing", "Permit"]
