"""Push to browsers (RFC 8030, 8291, 8292): :class:`~worker.channels.push.webpush.channel.WebPushChannel`.

``subscription`` reads a browser's subscription and says where we may go, ``public_resolver`` keeps us out of private networks,
``vapid`` has the key that says who we are, ``classifying`` says what an answer means. pywebpush encrypts and signs.
"""
