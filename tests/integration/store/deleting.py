"""Deletes old histories in batches of 3 and prints a line for each: ``python -m … DATABASE_URL NOW CUT URI_KEY``."""

import asyncio
import sys
from datetime import datetime

from worker.settings import load_settings
from worker.store.sql.database import Database, open_engine
from worker.store.transactions import retention

retention.BATCH = 3


async def main() -> None:
    url, now, cut, key = sys.argv[1:]
    settings = load_settings(_env_file=None, database_url=url, mx_api_key="k", mx_client_id="c", uri_keys=key)
    database = Database(open_engine(settings))
    store = retention.RetentionStore(database)
    print("begins", flush=True)
    while await store.delete_reconnections(datetime.fromisoformat(cut), datetime.fromisoformat(now)):
        print("batch", flush=True)
    print("over", flush=True)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())
