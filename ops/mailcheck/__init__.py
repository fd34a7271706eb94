"""Checks of the mails with a browser, a real mail server and a spam filter."""
