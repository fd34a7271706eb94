"""Which row kills its workers?

If a worker died, one of its rows may be the cause. Such rows are claimed apart from the others, and a process works on nothing else
meanwhile. One death says little, since machines are stopped every day, so the batch keeps its size. From the second death on it
shrinks, until the row is alone in it. After six deaths a row is quarantined. A row is no longer suspected once one attempt on it
finishes, whatever its result.

Example with batches of 200: after 1 death 200 rows at once, after 2 deaths 25, after 3 deaths 3, then 1 and 1; after 6 deaths the
row is quarantined.
"""

#: The batch size is divided by this with every death from the second on.
_SHRINK = 8

#: Deaths after which a row is quarantined. With batches of up to 1,023 rows it was alone at the last two.
MOST_DEATHS = 6


def batch_size(batch: int, deaths: int) -> int:
    """How many rows with so many deaths (1 or more) are claimed together: 200, 25, 3, 1, 1 for a batch of 200."""
    return max(batch // int(_SHRINK ** (deaths - 1)), 1)
