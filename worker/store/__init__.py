"""The queue of record: tables, claims and fences, encryption. The only place with SQL."""
