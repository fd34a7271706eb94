"""The ``reconnect`` command."""


def main() -> None:
    """Run it."""
