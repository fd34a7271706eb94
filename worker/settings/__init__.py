"""The settings, read from the environment and from ``.env`` in the working directory. A setting is added in ``fields``.

``fields`` has every setting with its reason, ``push`` those of the push services, ``web``, ``events`` and ``messenger`` those of the web process and of what
is posted to the application. ``values`` and ``urls`` parse settings that are not
plain text. ``env_file`` reads ``.env``. ``loading`` builds :class:`Settings` and reports errors.
"""

from worker.settings.fields import Settings
from worker.settings.loading import load_settings, misspelt, settings
from worker.settings.values import CONNECTION_STATUSES

__all__ = ["CONNECTION_STATUSES", "Settings", "load_settings", "misspelt", "settings"]
