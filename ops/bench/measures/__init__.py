"""One module for each group of rows; each is a function that takes the :class:`~ops.bench.bench.Bench`."""
