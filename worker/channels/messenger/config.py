"""The configuration of the company's own messenger."""

from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True, kw_only=True, slots=True)
class MessengerConfig:
    """One address that messages are posted to."""

    #: https, or http on this machine. A secret, because path and query may contain a credential.
    url: SecretStr
    #: ``whsec_…`` keys; the first two sign each request.
    secrets: tuple[SecretStr, ...]
    #: What customers call the product.
    app_name: str
    #: The language if the customer's own has no catalogue; ``None``: English.
    default_locale: str | None = None
    #: Seconds for one request and its answer.
    patience: float = 30.0
