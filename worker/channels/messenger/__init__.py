"""The company's own messenger (SMS, WhatsApp, a CRM, chat): a message is one signed request to ``MESSENGER_URL``.

The messenger knows the user by MX's GUID and finds the address itself. So a user needs no column for it, and has one address: the GUID.
"""
