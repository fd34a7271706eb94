"""``make clients``: MX's own Python clients against the sandbox."""
