"""The base of all owners of tables: the engine and its transactions, the tables, their types, and rows as parameters."""
