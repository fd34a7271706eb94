"""Email over SMTP: :class:`~worker.channels.email.channel.EmailChannel`.

``message`` builds the bytes, ``pool`` keeps the connections, ``dialogue`` sends one mail over one of them, ``outcomes`` classifies
the answer. The texts that customers read are in ``templates/``.
"""
