"""Push to phones and browsers: one folder for each service, and the modules that they share.

``http`` posts to a service, ``text`` makes title and sentence, ``payload`` adds the message's id and link, and ``pause`` stops a
channel while its service asks us to wait.
"""
