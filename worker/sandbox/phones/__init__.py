"""The services behind phones and browsers, as look-alikes: Google's FCM, Apple's APNs, and a Web Push service.

Each checks what the real one checks and answers in its words. They need the packages of ``reconnection-worker[push]``, so a
sandbox without phones never imports them.
"""
