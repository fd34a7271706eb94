"""Bare aiosmtplib: several connections, and each sends one mail after the other. Prints the seconds as JSON.

``python -m ops.bench.bare_mail PORT MAILS CONNECTIONS``
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime

import aiosmtplib

from ops.bench.processes import settings_of
from worker.channels import Bank, Message
from worker.channels.email.message import Composer, Mail
from worker.runtime import LoopThread
from worker.settings import load_settings


def content() -> bytes:
    """One mail built by the worker's code, so that it is as long as the worker's mails."""
    given = settings_of(database_url="sqlite:///none", redis_url="redis://127.0.0.1", mx_url="http://127.0.0.1:9")
    settings = load_settings(_env_file=None, **{name.lower(): value for name, value in given.items()})
    link = "https://mxbank.mx.com/oauth/authorize?client_id=" + 200 * "x"
    bank = Bank(name="MX Bank (OAuth)", since=datetime.now(UTC), link=link)
    message = Message(key="k", address="person@mail.example", locale="en", time_zone=UTC, step=0, banks=(bank,))
    mail = Composer(settings).build(message)
    assert isinstance(mail, Mail)
    return mail.content


async def send(port: int, mails: int, connections: int) -> float:
    """Send all mails; return the seconds, including the time to connect."""
    numbers, data = iter(range(mails)), content()

    async def go_on() -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, use_tls=False, start_tls=False) as smtp:
            for number in numbers:
                await smtp.sendmail("no-reply@ledgerly.example", [f"person{number}@mail.example"], data)

    began = time.monotonic()
    await asyncio.gather(*(go_on() for _ in range(connections)))
    return time.monotonic() - began


if __name__ == "__main__":
    threads = LoopThread()
    print(json.dumps(threads.run(send(*map(int, sys.argv[1:4])))))
    threads.close()
