"""Pictures of the pages for docs/notifications.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser

from ops.browser.pages import Kind
from ops.browser.watching import watched

#: The most bytes of a picture, since a reader of the document loads all pictures.
LIMIT = 200_000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: the page, and the look."""

    name: str
    kind: str
    locale: str = "en-US"
    width: int = 760
    scheme: str = "light"
    scale: float = 1.5


PICTURES = (
    Picture(name="page-light", kind="one bank"),
    Picture(name="page-dark", kind="four banks in two states", locale="fr-FR", scheme="dark"),
    Picture(name="page-narrow", kind="one bank", locale="es-ES", width=320, scale=2),
    Picture(name="page-back", kind="back"),
    Picture(name="page-unsubscribe", kind="no messages about one bank"),
)


def take(browser: Browser, kinds: Mapping[str, Kind], folder: Path) -> None:
    """Take all pictures."""
    for picture in PICTURES:
        size = {"width": picture.width, "height": 200}
        with watched(
            browser,
            locale=picture.locale,
            viewport=size,
            device_scale_factor=picture.scale,
            color_scheme=picture.scheme,
        ) as watch:
            page = watch.context.new_page()
            kinds[picture.kind].bring(page)
            png = page.screenshot(full_page=True)
        if len(png) > LIMIT:
            raise RuntimeError(f"{picture.name}.png has {len(png):,} bytes, more than {LIMIT:,}")
        (folder / f"{picture.name}.png").write_bytes(png)
        print(f"{folder / picture.name}.png  {len(png):,} bytes", flush=True)
