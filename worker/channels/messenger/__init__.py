"""The company's own messenger (SMS, WhatsApp, a CRM, chat): a message is one signed request to ``MESSENGER_URL``.

The messenger knows the user by MX's GUID and finds the address itself. So the users table has no column for it; a user's address is the GUID.
"""
