"""Pure decisions: who is broken, when to retry, when and how often to speak, on which channel. No I/O, no clock of its own."""
