"""A new channel needs a folder and an entry in the registry. The rest of the worker asks the registry."""

import ast
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import pytest

import worker
from worker.channels import registry
from worker.cli import channel_checks, work
from worker.policy.channel_choice import CHOICES, DEVICE_CHANNELS, EMAIL, MESSENGER, Contact, Route, choose
from worker.settings import Settings
from worker.stages.explain import Explainer
from worker.store.users import User

ROOT = Path(worker.__file__).parent
FOLDERS = sorted(path.parent for path in (ROOT / "channels").rglob("channel.py"))

CHANNEL = """
from worker.channels import ChannelDown, Sent

class PigeonChannel:
    kind = "pigeon"

    def __init__(self, loft):
        self.loft = loft

    async def send(self, message, dispatching):
        await dispatching()
        return Sent()

    async def check(self):
        return Sent(code="ready") if self.loft == "open" else ChannelDown(code="loft_closed")

    async def close(self):
        pass
"""
KIND = """
from worker.channels import ChannelKind

def _open(settings, _data_patience):
    from pigeon.channel import PigeonChannel
    return PigeonChannel(settings.pigeon_loft)

PIGEON = ChannelKind(name="pigeon", setting="pigeon_loft", open=_open)
"""


class PigeonSettings(Settings):
    pigeon_loft: str | None = None


@pytest.fixture
def pigeon(tmp_path, monkeypatch):
    """A folder with a new kind of channel, and its entry in the registry."""
    folder = tmp_path / "pigeon"
    folder.mkdir()
    for name, text in (("__init__", ""), ("channel", CHANNEL), ("kind", KIND)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, import_module("pigeon.kind").PIGEON))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "pigeon"]:
        del sys.modules[name]


@pytest.fixture
def with_loft(settings_for):
    """Makes the usual settings and the new channel's own setting."""

    def make(loft):
        usual = settings_for(smtp_url=None)
        return PigeonSettings.model_construct(**dict(usual), pigeon_loft=loft)

    return make


@pytest.mark.usefixtures("pigeon")
async def test_a_further_folder_is_opened_chosen_explained_checked_and_paused(with_loft):
    off, on, closed = with_loft(None), with_loft("open"), with_loft("closed")
    assert registry.open_channels(off, data_patience=1) == {}
    assert "pigeon.channel" not in sys.modules

    channels = registry.open_channels(on, data_patience=1)
    assert list(channels) == ["pigeon"]
    contact = Contact(preferred="push", email="ana@mail.example", devices=(("fcm", "phone"), ("pigeon", "roof")))
    assert choose(contact, configured=channels.keys()) == Route(channel="pigeon", address="roof")

    user = User(
        user_guid="USR-1",
        contact=Contact(devices=(("pigeon", "roof"),)),
        locale=None,
        timezone=None,
        sent=(),
        message_under_way=False,
    )
    now = datetime(2026, 11, 26, tzinfo=UTC)
    assert "see PIGEON_LOFT" in Explainer(off, configured=(), pauses=(), now=now).contact(user)
    assert "is told by pigeon" in Explainer(on, configured=channels, pauses=(), now=now).contact(user)

    assert await channel_checks.examine_channels(on, patience=8) == (True, "messages are taken by pigeon")
    assert await channel_checks.examine_channels(closed, patience=8) == (
        False,
        "pigeon does not take messages from us (loft_closed): see PIGEON_LOFT",
    )
    assert work._scope("channel:pigeon") == work._scope("pigeon") == "channel:pigeon"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_folder_is_in_the_registry_under_its_own_name_with_a_setting_that_there_is(folder):
    kind = next((kind for kind in registry.KINDS if kind.name == folder.name), None)
    assert kind is not None, f"add {folder.name} to worker/channels/registry.py"
    assert f'kind = "{kind.name}"' in (folder / "channel.py").read_text()
    assert kind.setting in Settings.model_fields
    assert kind.name in CHOICES, "applications write it into users.channel: policy/channel_choice.py"


def test_email_is_tried_first_and_the_registry_has_a_kind_for_each_word_of_the_database():
    assert registry.names()[0] == EMAIL
    assert set(registry.names()) == {EMAIL, *DEVICE_CHANNELS, MESSENGER}


#: Other modules that may name a push service, and why.
NAMES_KINDS = {
    "policy/channel_choice.py": "what the database's columns may hold",
    "policy/columns.py": "what else applications may write there",
    "store/refusals.py": "how a reason for a pause calls the service; the kind's name where there is nothing better",
}


def test_nothing_outside_a_channels_folder_names_a_push_service():
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT)
        if place.parts[0] == "sandbox" or path.parent in FOLDERS or str(place) in NAMES_KINDS:
            continue
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        settings = {kind.switch for kind in registry.KINDS if kind.name != EMAIL}
        assert not words & {*DEVICE_CHANNELS, *settings}, f"{place}: ask worker/channels/registry.py instead"
