"""The demonstration: ``forty_days`` runs it and counts the messages that arrive, ``summary`` compares results and expectations.

The rest of the sandbox does not import the product. This package does, except the commands. :mod:`worker.cli.demo` starts it.
"""
