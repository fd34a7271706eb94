"""One whole sync in a process like a worker's child: prints seconds, CPU seconds, the sync's counts, and samples of its memory."""

import json
import threading
import time

import psutil

from ops.bench.peak import held_by
from worker.runtime import ProcessRuntime, Runtime
from worker.settings import load_settings
from worker.stages.sync import SyncResult, sync_all
from worker.stages.sync_pass_base import Progress
from worker.telemetry.logs import configure_logs


def main() -> None:
    """``python -m ops.bench.sync_run``; the settings come from the environment."""
    configure_logs()

    async def nobody(_stage: str, _n: int) -> int:
        return 0

    process = ProcessRuntime(load_settings(), wake=nobody)
    progress, held, ended = Progress(), [], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            held.append((progress.done, held_by(psutil.Process())))

    async def job(runtime: Runtime) -> SyncResult | None:
        return await sync_all(runtime, begin=True, progress=progress)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began, cpu = time.monotonic(), time.process_time()
    result = process.run(job)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    ended.set()
    watcher.join()
    process.close()
    print(json.dumps({"seconds": took, "cpu": cpu, "found": result.found if result else None, "held": held}))


if __name__ == "__main__":
    main()
