"""Look-alikes of the push services: Google's FCM, Apple's APNs, and a Web Push service.

Each makes the checks of the real service and gives its answers. They need the packages of ``reconnection-worker[push]``, so a sandbox
without phones never imports them.
"""
