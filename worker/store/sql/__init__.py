"""What every table owner builds on: the engine and its transactions, the tables, their types, and rows as parameters."""
