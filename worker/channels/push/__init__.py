"""Push to phones and browsers: one folder per service, and what the three share.

``http`` posts to a service, ``payload`` says what a message carries beside its words, ``text`` has the words, and ``pause`` stops
a channel while its service asks us to wait.
"""
