"""A process that asks MX for members as fast as its pacing lets it: ``python -m … REDIS_URL MX_URL RATE`` (0 for no rate).

It says ``ready`` on stdout, begins when stdin brings a line, and ends when stdin is closed. Its log goes to stdout, too.
"""

import asyncio
import sys

from cryptography.fernet import Fernet
from yarl import URL

from worker.mx.answers import RetryLater
from worker.mx.classifying import classify_member
from worker.mx.pacing import NoPermit, Pacing
from worker.mx.transport import Transport
from worker.settings import Settings

TASKS = 100


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
    tasks = [asyncio.create_task(ask()) for _ in range(TASKS)]
    await stdin.read()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(f"lost={pacing._source.schedule.lost}", flush=True)
    await pacing.close()
    await transport.close()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
