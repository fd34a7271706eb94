"""Push through Firebase Cloud Messaging, HTTP v1: :class:`~worker.channels.push.fcm.channel.FcmChannel`.

``access_token`` gets the service account's tokens, ``message`` builds the request, ``classifying`` classifies the answer.
"""
