"""Celery with one task for each member, which asks with ``requests``: run it on prefork, threads or gevent."""

import os
import threading

import requests
from celery import Celery

from ops.bench.rivals.task import HEADERS, BlockingStore, url_of

app = Celery("rival", broker=os.environ.get("REDIS_URL"))
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    # Four prefetched messages for each concurrent task: Celery's default, and faster here than one.
    worker_prefetch_multiplier=4,
    # Kombu's ten connections are too few for the acknowledgements of a hundred greenlets.
    broker_transport_options={"visibility_timeout": 900, "max_connections": 2000},
)

_local = threading.local()
_store = BlockingStore()


def _session() -> requests.Session:
    """A session for each thread or greenlet, so that its connection is kept alive."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.headers.update(HEADERS)
    session: requests.Session = _local.session
    return session


@app.task(name="rival.fetch")
def fetch(user_guid: str, member_guid: str) -> None:
    """Ask for one member's window and store it."""
    response = _session().get(url_of(user_guid, member_guid), timeout=30)
    response.raise_for_status()
    _store.store(member_guid, response.content)
