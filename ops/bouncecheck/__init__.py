"""How well the bounce reader distinguishes dead addresses from live ones, measured with sisimai's public mails. See ``__main__``."""
