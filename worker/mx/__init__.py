"""The MX API: a client with a flavour for each API, the classification of answers, and the check of URIs."""
