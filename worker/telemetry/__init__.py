"""``logs`` configures logging; ``scrubbing`` keeps secrets and personal data out of it."""
