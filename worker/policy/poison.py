"""Which row takes its workers down?

A row whose worker died may be the reason. Such rows are claimed apart from the others, each batch a process's only work. One death
says little, since machines are stopped every day: the batch stays as large as any. From the second on it shrinks until the culprit
stands alone; what dies alone again is set aside. The innocent clear themselves by coming to any end at all.
"""

#: How much smaller a batch becomes with every death from the second on.
_SHRINK = 8

#: Deaths after which a row is set aside; the last two or more were its own.
MOST_DEATHS = 6


def batch_size(batch: int, deaths: int) -> int:
    """How many rows with so many deaths (1 or more) are claimed together: 200, 25, 3, 1, 1 for a batch of 200."""
    return max(batch // int(_SHRINK ** (deaths - 1)), 1)
