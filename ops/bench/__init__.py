"""The benchmark: ``python -m ops.bench`` measures speed, CPU and memory, prints one table and writes ``RESULTS.md``.

The servers are real and run in their own processes: PostgreSQL and Valkey from wheels, a lean MX (:mod:`.upstream`) and a lean mail
server (:mod:`.mail_sink`), which answer after a fixed time and are never the bottleneck. Things that are compared run alternately,
so that their ratio is right even if the machine's speed changes.
"""
