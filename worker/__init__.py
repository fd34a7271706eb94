"""The reconnection worker: when a bank revokes or expires the OAuth token behind a customer's connection, it brings the customer back."""

__version__ = "0.1.0"
