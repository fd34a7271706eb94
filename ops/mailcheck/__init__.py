"""The mails, looked at with the eyes of others: a browser, a real mail server, a spam filter."""
