"""``python -m worker.sandbox``: the sandbox as a process of its own."""

import argparse
import asyncio
import gc
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from worker.errors import WorkerError
from worker.sandbox.server import (
    DEFAULT_API_KEY,
    DEFAULT_CLIENT_ID,
    Addresses,
    SandboxConfig,
    serve,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m worker.sandbox``; the exit code."""
    chosen = _parser().parse_args(arguments)
    ready_file: Path | None = chosen.ready_file
    config = SandboxConfig(
        population=chosen.population,
        mail_dir=chosen.mail_dir,
        keep_bodies=not chosen.drop_bodies,
        host=chosen.host,
        http_port=chosen.http_port,
        smtp_port=chosen.smtp_port,
        api_key=chosen.api_key,
        client_id=chosen.client_id,
        latency=chosen.latency,
        mail_latency=chosen.mail_latency,
        aggregation_seconds=chosen.aggregation_seconds,
        phones=chosen.phones,
        web=chosen.web,
        front_port=chosen.front_port,
        webhooks=chosen.webhooks,
        webhook_auth=chosen.webhook_auth,
    )

    def ready(addresses: Addresses) -> None:
        # Otherwise one collection walks through the objects of 30,000 requests and delays every answer by 0.2 s. Requests that a client
        # spread evenly are then counted as if they had come at once.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 1_000)
        if ready_file is not None:
            unfinished = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
            unfinished.write_text(json.dumps(asdict(addresses) | {"pid": os.getpid()}), encoding="utf-8")
            unfinished.replace(ready_file)
        sys.stdout.write(f"MX: {addresses.base_url}  mail: {addresses.smtp_url}  pages: {addresses.mail_page}\n")
        sys.stdout.flush()

    try:
        if ready_file is not None:  # the file of an earlier run would have wrong addresses
            ready_file.unlink(missing_ok=True)
        asyncio.run(serve(config, ready))
    except WorkerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"sandbox: {ready_file} cannot be written: {error.strerror}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.sandbox", description="An MX look-alike and a mailbox.")
    parser.add_argument("--population", type=Path, required=True, metavar="FILE", help="members, JSON Lines")
    parser.add_argument("--mail-dir", type=Path, metavar="DIR", help="where mail is kept")
    parser.add_argument("--drop-bodies", action="store_true", help="count mails and forget them")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (%(default)s)")
    parser.add_argument("--http-port", type=_port, default=0, metavar="N", help="0 for any free one (%(default)s)")
    parser.add_argument("--smtp-port", type=_port, default=0, metavar="N", help="0 for any free one (%(default)s)")
    parser.add_argument("--api-key", default=DEFAULT_API_KEY, help="what MX-API-Key must be (%(default)s)")
    parser.add_argument("--client-id", default=DEFAULT_CLIENT_ID, help="what MX-Client-ID must be (%(default)s)")
    parser.add_argument("--latency", type=_seconds, default=0.0, metavar="SECONDS", help="of each answer")
    parser.add_argument("--mail-latency", type=_seconds, default=0.0, metavar="SECONDS", help="of each SMTP reply")
    parser.add_argument(
        "--aggregation-seconds",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="from consent to data (%(default)s)",
    )
    parser.add_argument("--phones", type=Path, metavar="DIR", help="phones and browsers too, the sender's keys in DIR")
    parser.add_argument("--web", metavar="URL", help="where `reconnect web` listens: open a public address for it")
    parser.add_argument("--front-port", type=_port, default=0, metavar="N", help="of that address (%(default)s)")
    parser.add_argument("--webhooks", metavar="URL", help="where MX's webhooks are sent, such as …/webhooks/mx")
    parser.add_argument("--webhook-auth", metavar="AUTH", help="what is sent with them: user:password, or bearer TOKEN")
    parser.add_argument("--ready-file", type=Path, metavar="PATH", help="the addresses as JSON, once both listen")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 16:
        raise ValueError
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 600:  # noqa: PLR2004 - the bound of control's latency
        raise ValueError
    return seconds
