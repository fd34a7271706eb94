"""Email over SMTP: :class:`~worker.channels.email.channel.EmailChannel`.

``message`` builds the bytes, ``pool`` keeps the connections, ``dialogue`` drives one mail over one of them, ``outcomes`` says
what an answer means. The words that customers read are in ``templates/``.
"""
