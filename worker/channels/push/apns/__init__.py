"""Push through Apple's service: :class:`~worker.channels.push.apns.channel.ApnsChannel`.

``provider_token`` signs who we are, ``message`` builds what is posted, ``exchange`` carries it over HTTP/2, ``classifying`` says
what an answer means.
"""
