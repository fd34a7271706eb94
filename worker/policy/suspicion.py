"""Which row takes its workers down?

A row whose holder died may be the reason. Such rows are claimed in ever smaller slices, each a process's only work, until the
culprit stands alone; what dies alone again is set aside. The innocent clear themselves by coming to any end at all.
"""

#: How much smaller a slice becomes with every death.
_SHRINK = 8

#: Deaths after which a row is set aside: three in company at most, so that at least two were its own.
MOST_DEATHS = 6


def slice_size(batch: int, deaths: int) -> int:
    """How many rows with so many deaths are claimed together: 200, 25, 3, 1, 1, 1 for a batch of 200."""
    return max(batch // int(_SHRINK**deaths), 1)
