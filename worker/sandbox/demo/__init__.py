"""The demonstration: ``forty_days`` lives through them and counts what arrives, ``summary`` says what became of whom.

The rest of the sandbox knows nothing of the product; this knows all of it but the commands. :mod:`worker.cli.demo` starts it.
"""
