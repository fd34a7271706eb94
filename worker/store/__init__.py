"""The database, which is also the queue of work: tables, claims and fences, encryption. The only place with SQL."""
