"""Pictures of the mail for docs/notifications.md: light, dark and narrow, by a headless Chromium.

    apt-get install chromium
    python -m ops.mailcheck.screenshots [FOLDER]

Chromium is driven over its DevTools protocol, since only that can set the colour scheme and the width of a phone.
"""

import asyncio
import base64
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from ops.mailcheck.samples import message
from worker.channels import Message
from worker.channels.email.wording import word

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: The most bytes of a picture, since a reader of the document loads all pictures.
LIMIT = 200_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture: the mail, and the look."""

    name: str
    shows: Message
    #: CSS pixels. 500 and more is a desktop computer, less is a phone.
    width: int
    scheme: str
    #: Pixels of the picture per CSS pixel.
    scale: float = 1.5


PICTURES = (
    Picture(name="mail-light", shows=message("en", step=0, count=1), width=760, scheme="light"),
    Picture(name="mail-dark", shows=message("fr", step=0, count=3), width=760, scheme="dark"),
    Picture(name="mail-narrow", shows=message("es", step=1, count=1), width=390, scheme="light", scale=2),
)


@dataclass
class Page:
    """A tab, which is driven over a WebSocket."""

    socket: aiohttp.ClientWebSocketResponse
    _last: int = 0

    async def __call__(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and wait for its answer."""
        self._last = wanted = self._last + 1
        await self.socket.send_json({"id": wanted, "method": method, "params": parameters})
        while True:
            answer = await self.socket.receive_json(timeout=30)
            if answer.get("id") == wanted:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]


@asynccontextmanager
async def browser(executable: str) -> AsyncIterator[Page]:
    """A Chromium with one empty tab and a temporary profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [executable, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
        try:
            port = await _port(Path(profile) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as response:
                    tabs = [tab for tab in await response.json() if tab["type"] == "page"]
                async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(30):
        while not (port := _written(file)):
            if process.returncode is not None:
                raise SystemExit("screenshots: Chromium does not start")
            await asyncio.sleep(0.05)
    return int(port)


def _written(file: Path) -> str:
    return next(iter(file.read_text().split()), "") if file.exists() else ""


async def take(page: Page, picture: Picture) -> bytes:
    """The picture of the whole mail, as PNG."""
    html = word(picture.shows, app="Ledgerly").html
    await page("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": picture.scheme}])
    screen = {"width": picture.width, "deviceScaleFactor": picture.scale, "mobile": picture.width < 500}
    await page("Emulation.setDeviceMetricsOverride", height=100, **screen)
    frame = (await page("Page.getFrameTree"))["frameTree"]["frame"]["id"]
    await page("Page.setDocumentContent", frameId=frame, html=html)
    size = (await page("Page.getLayoutMetrics"))["cssContentSize"]
    if size["width"] > picture.width:
        raise SystemExit(f"screenshots: {picture.name} is wider ({size['width']}) than its screen ({picture.width})")
    await page("Emulation.setDeviceMetricsOverride", height=int(size["height"]), **screen)
    shot = await page("Page.captureScreenshot", format="png")
    return base64.b64decode(shot["data"])


async def main(folder: Path) -> None:
    """Take all pictures."""
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        raise SystemExit("screenshots: there is no Chromium: apt-get install chromium")
    async with browser(executable) as page:
        for picture in PICTURES:
            png = await take(page, picture)
            if len(png) > LIMIT:
                raise SystemExit(f"screenshots: {picture.name}.png has {len(png):,} bytes, more than {LIMIT:,}")
            (folder / f"{picture.name}.png").write_bytes(png)
            print(f"{folder / picture.name}.png  {len(png):,} bytes")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "docs"))
