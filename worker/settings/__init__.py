"""The settings, read from the environment and from ``.env`` in the working directory.

Settings of the push services are in ``push``, of the web process in ``web``, of events in ``events``, of the messenger in ``messenger``, and
all others in ``fields``. ``values`` and ``urls`` parse settings that are not plain text. ``env_file`` reads ``.env``. ``loading`` builds
:class:`Settings` and reports errors.
"""

from worker.settings.fields import Settings
from worker.settings.loading import load_settings, misspelt, settings
from worker.settings.values import CONNECTION_STATUSES

__all__ = ["CONNECTION_STATUSES", "Settings", "load_settings", "misspelt", "settings"]
