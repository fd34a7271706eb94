"""Push through Firebase Cloud Messaging, HTTP v1: :class:`~worker.channels.push.fcm.channel.FcmChannel`.

``access_token`` gets the service account's tokens, ``message`` builds what is posted, ``classifying`` says what an answer means.
"""
