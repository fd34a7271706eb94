"""How fast, how light, and against what: ``python -m ops.bench`` measures, prints one table and writes ``RESULTS.md``.

Everything runs against real servers in processes of their own: PostgreSQL and Valkey from wheels, a lean MX
(:mod:`.upstream`) and a lean mail server (:mod:`.mail_sink`) that answer after a fixed time and are never the bottleneck.
What is compared is run in turns within one run, so that a ratio holds even where the machine's speed does not.
"""
