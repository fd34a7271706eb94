"""Sentences about the work that more than one command says."""


def given_up(count: int) -> str:
    """The report line for reconnections that ended ``exhausted``."""
    return f"{count} given up after the last reminder went unheard; `reconnect retry --exhausted` puts them back"
