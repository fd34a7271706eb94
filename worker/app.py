"""The Celery application: queues, schedule, signals.

A message only says "there is work in this stage"; the work itself is in the database. So a message may be lost, late or doubled, and
there is no result backend. It carries no arguments, except ``by_beat=True`` of beat's sweeps. The reasons for the values are in
``docs/architecture.md``, "Celery".
"""

import logging
import os
import ssl
import sys
from typing import Any

from celery import Celery, signals
from kombu import Exchange, Queue

from worker import broker_transport, stopping
from worker.channels.registry import check_channels
from worker.errors import SettingsError, WorkerError
from worker.schedules import Line
from worker.settings import settings
from worker.task_limits import hard_limit, soft_limit, visibility_timeout
from worker.telemetry.logs import configure_logs

STAGES = ("sweep", "fetch", "deliver", "verify", "sync", "events")

#: How long a worker that is asked to stop may take to end its runs (seconds).
STOP_GRACE = 60


def configuration() -> dict[str, Any]:
    """Celery's configuration. Celery calls this at first use, so importing this module needs no settings."""
    try:
        worker_settings = settings()
        # A wrong template or key fails at the start of the worker, not at the first message.
        check_channels(worker_settings)
    except WorkerError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(SettingsError.exit_code) from None
    broker = worker_settings.redis_url.get_secret_value()
    # By default Kombu does not verify certificates.
    verified = {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED}} if broker.startswith("rediss:") else {}
    return (
        verified
        | {
            "broker_url": broker,
            "imports": ("worker.tasks",),
            "worker_consumer": "worker.consumer:Consumer",  # reconnects after every error of the broker
            # One exchange and one routing key for each queue. With a shared one, a restored message would go to every queue.
            "task_queues": tuple(Queue(stage, Exchange(stage, type="direct"), routing_key=stage) for stage in STAGES),
            "task_routes": {f"reconnect.{stage}": {"queue": stage, "routing_key": stage} for stage in STAGES},
            "task_default_queue": "sweep",
            "task_default_exchange": "sweep",
            "task_default_routing_key": "sweep",
            "task_create_missing_queues": False,  # a typo in a queue's name fails loudly
            "task_serializer": "json",
            "result_serializer": "json",
            "accept_content": ["json"],  # no pickle
            "task_ignore_result": True,  # results are in the database
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "task_soft_time_limit": soft_limit(worker_settings.run_seconds),
            "task_time_limit": hard_limit(worker_settings.run_seconds),
            "worker_prefetch_multiplier": 1,  # no task waits in one worker while another is idle
            "worker_soft_shutdown_timeout": STOP_GRACE,
            "worker_cancel_long_running_tasks_on_connection_loss": False,  # the epoch keeps a second execution from storing anything
            "worker_max_tasks_per_child": 500,
            "worker_max_memory_per_child": 400_000,
            "worker_disable_rate_limits": True,  # mx/pacing/ limits requests, across all workers
            "worker_send_task_events": True,  # Flower
            "task_send_sent_event": True,
            "worker_hijack_root_logger": False,
            "worker_redirect_stdouts": False,
            "broker_connection_retry_on_startup": True,
            "broker_connection_max_retries": None,
            "broker_transport_options": {
                "visibility_timeout": visibility_timeout(worker_settings.run_seconds),
                "unacked_restore_interval": 10,
                "unacked_restore_throttle": 1,
                "socket_timeout": 15,
                "socket_connect_timeout": 5,
                "socket_keepalive": True,
                "health_check_interval": 15,
            },
            "timezone": "UTC",
            "beat_max_loop_interval": 15,
            "beat_scheduler": "worker.beat:MemorylessScheduler",  # has no file that a wrong clock or a power cut could damage
            "beat_schedule": {
                stage: {"task": f"reconnect.{stage}", "schedule": Line(line), "kwargs": kwargs}
                for stage, line, kwargs in (
                    ("sweep", worker_settings.sweep_schedule, {"by_beat": True}),
                    # So that a sync begins on time; any task of the stage begins it.
                    ("sync", worker_settings.sync_schedule, {}),
                )
                if line is not None
            },
        }
    )


# By default Flower's list has no column for results. Flower always imports this module first (`celery -A worker.app flower`).
os.environ.setdefault("FLOWER_TASKS_COLUMNS", "name,state,result,received,runtime,worker")

broker_transport.install()

app = Celery("reconnection-worker", set_as_current=True)
app.add_defaults(configuration)
app.steps["worker"].add("worker.overdue_sweeps:SweepWatch")


@signals.worker_init.connect
def _prepare_to_stop(**_: object) -> None:
    stopping.prepare()


@signals.worker_shutting_down.connect
def _stop(**_: object) -> None:
    stopping.announce()


@signals.setup_logging.connect
def _logs(loglevel: int | None = None, **_: object) -> None:
    # Celery's default is WARNING, which would hide the report of each run. So the level is INFO, or DEBUG with `-l DEBUG`.
    configure_logs(logging.DEBUG if loglevel == logging.DEBUG else logging.INFO)
