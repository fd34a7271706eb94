"""A process that reads members at MX as fast as its pacing allows: ``python -m … REDIS_URL MX_URL RATE`` (0: no rate).

It prints ``ready`` on stdout, begins when a line arrives on stdin, and ends when stdin is closed. Its log goes to stdout too. At the end it
prints how many permits were lost, and the longest time for which the machine did not let it run.
"""

import asyncio
import sys
import time

from cryptography.fernet import Fernet
from yarl import URL

from worker.mx.answers import RetryLater
from worker.mx.classifying import classify_member
from worker.mx.pacing import NoPermit, Pacing
from worker.mx.transport import Transport
from worker.settings import Settings

TASKS = 100


class Pauses:
    """How long the machine did not let this process run, in seconds: the longest time and the sum."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.together = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            pause = time.monotonic() - before - 0.01
            if pause > 0:
                self.worst = max(self.worst, pause)
                self.together += pause


async def run(redis_url: str, mx_url: str, rate: str) -> None:
    settings = Settings(
        _env_file=None,
        mx_api_key="k",
        mx_client_id="c",
        uri_keys=Fernet.generate_key().decode(),
        redis_url=redis_url,
        mx_requests_per_second=float(rate),
    )
    pacing, transport = Pacing(settings), Transport(mx_url, {}, max_connections=TASKS)

    async def ask() -> None:
        while True:
            try:
                async with pacing.permit(within=20) as permit:
                    reply = await transport.send(URL(mx_url))
                    permit.heard(reply if isinstance(reply, RetryLater) else classify_member(*reply, asked="MBR-1"))
            except NoPermit:
                continue

    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    print("ready", flush=True)
    await stdin.readline()
    pauses = Pauses()
    tasks = [asyncio.create_task(ask()) for _ in range(TASKS)]
    tasks.append(asyncio.create_task(pauses.watch()))
    await stdin.read()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(f"lost={pacing._source.schedule.lost} worst_pause={pauses.worst:.3f}", flush=True)
    await pacing.close()
    await transport.close()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
