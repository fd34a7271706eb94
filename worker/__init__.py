"""The reconnection worker. When the OAuth token of a customer's bank connection is revoked or expires, it asks the customer to reconnect."""

__version__ = "0.1.0"
