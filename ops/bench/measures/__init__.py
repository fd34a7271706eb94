"""One module for each group of rows. Each measure is a function that takes the :class:`~ops.bench.bench.Bench`."""
