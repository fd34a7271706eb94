"""Push to browsers (RFC 8030, 8291, 8292): :class:`~worker.channels.push.webpush.channel.WebPushChannel`.

``subscription`` parses a browser's subscription and checks its host, ``public_resolver`` refuses hosts in private networks,
``vapid`` reads our key, ``classifying`` classifies the answer. pywebpush encrypts and signs.
"""
