"""How well the bounce reader tells dead addresses from live ones, measured on sisimai's public mails. See ``__main__``."""
