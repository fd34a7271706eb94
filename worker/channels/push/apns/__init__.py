"""Push through Apple's service: :class:`~worker.channels.push.apns.channel.ApnsChannel`.

``provider_token`` signs our credentials, ``message`` builds the request, ``exchange`` sends it over HTTP/2, ``classifying``
classifies the answer, ``doubtful`` tells one bad device token from a wrong setting.
"""
