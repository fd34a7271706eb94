"""Pure decisions: who is broken, when to retry, when, how often and on which channel to write to a user. No I/O, no clock of its own."""
