"""What the worker says of itself: ``logs`` configures them, ``scrubbing`` keeps secrets and personal data out of them."""
