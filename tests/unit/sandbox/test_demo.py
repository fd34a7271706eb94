"""What the demonstration calls right and wrong, and when it looks."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from worker.sandbox.demo.forty_days import FortyDays, Stop, Story, Told, stops
from worker.sandbox.demo.summary import kinds_of
from worker.sandbox.scenario import KINDS, NIGHT, NOON, cast, devices_of, with_devices, zone_where_it_is

DAYS = (0, 3, 7, 14, 30)


def perfect():
    players = cast(100)
    return Story(
        players=players,
        at_first={p.member_guid: p.kind.at_first for p in players if p.kind.at_first},
        ended={p.member_guid: p.kind.ends for p in players if p.kind.ends},
    )


def test_a_small_cast_has_every_kind():
    assert {player.kind.name for player in cast(100)} == {kind.name for kind in KINDS}


def test_those_who_would_look_like_an_outage_of_mx_stay_few():
    failing = [player for player in cast(5000) if player.kind.name == "MX: 500 for good"]
    assert len(failing) == 10


def test_every_device_belongs_to_who_has_it():
    players = cast(200)
    devices = devices_of(players)
    equipped = with_devices(players, [f"address {number}" for number in range(len(devices))])
    addresses = [address for p in {p.user_guid: p for p in equipped}.values() for _, address in p.devices]
    assert addresses == [f"address {number}" for number in range(len(devices))]
    for player in equipped:
        assert [kind for kind, _ in player.devices] == [device.split()[0] for device in player.kind.devices]


@pytest.mark.parametrize("hour", [NIGHT, NOON, NIGHT + 75 * 24 + 3])
def test_a_zone_is_found_for_every_hour(hour):
    for moment in (datetime(2026, 11, 23, now, 59, tzinfo=UTC) for now in range(24)):
        assert moment.astimezone(ZoneInfo(zone_where_it_is(hour, moment))).hour == hour % 24, moment


def test_it_looks_before_and_after_every_reminder_in_whole_hours():
    found = list(stops(DAYS))
    assert [stop.at for stop in found] == sorted(stop.at for stop in found)
    assert not any(stop.at % timedelta(hours=1) for stop in found)
    assert found[-1].at == timedelta(days=40)
    for number, day in enumerate(DAYS[1:], start=1):
        before, after = (
            [s.rounds for s in found if s.at < timedelta(days=day)][-1],
            next(s.rounds for s in found if s.at > timedelta(days=day)),
        )
        assert (before, after) == (number, number + 1)


def test_nothing_is_wrong_where_everybody_ended_as_they_must():
    assert sum(row["wrong"] for row in kinds_of(perfect())) == 0


@pytest.mark.parametrize("field", ["at_first", "ended"])
def test_a_member_that_ended_otherwise_is_wrong(field):
    story = perfect()
    getattr(story, field)[story.players[0].member_guid] = "cancelled"
    assert [row["kind"] for row in kinds_of(story) if row["wrong"]] == [story.players[0].kind.name]


def test_a_member_that_was_to_be_left_alone_and_was_not_is_wrong():
    story = perfect()
    healthy = next(p for p in story.players if p.kind.name == "healthy")
    story.ended[healthy.member_guid] = "notified"
    assert [row["wrong"] for row in kinds_of(story) if row["kind"] == "healthy"] == [1]


@pytest.mark.parametrize(
    ("kind", "told", "right"),
    [
        ("status DENIED", Told(mails=2), True),
        ("status DENIED", Told(mails=3), False),
        ("status DENIED", Told(mails=1), False),
        ("status DENIED", Told(mails=2, pushes=1), False),
        ("iPhone, no mail", Told(pushes=2), True),
        ("iPhone, no mail", Told(mails=2), False),
        ("clicks the link, allows", Told(mails=1), True),
        ("clicks the link, allows", Told(mails=2), False),
        ("opted out", Told(), True),
        ("opted out", Told(mails=1), False),
    ],
)
def test_who_is_told_too_often_or_not_at_all_is_found(bare_run, kind, told, right):
    run = bare_run(kind, told)
    wrong = run._mistold(Stop(at=timedelta(days=3, hours=4), what="reminder 1", rounds=2))
    assert bool(wrong) is not right


@pytest.mark.parametrize(("told", "right"), [(Told(), True), (Told(mails=1), False)])
def test_nobody_may_be_told_in_their_sleep(bare_run, told, right):
    wrong = bare_run("in quiet hours", told)._mistold(Stop(at=timedelta(0), what="the first message", rounds=1))
    assert bool(wrong) is not right


@pytest.fixture
def bare_run():
    """A run in which one user of a kind was told so much, with nothing behind it."""

    def make(kind, told):
        run = FortyDays.__new__(FortyDays)
        player = next(p for p in cast(100) if p.kind.name == kind)
        run._story = Story(players=[player], told={player.user_guid: told})
        return run

    return make
