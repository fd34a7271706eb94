"""Which results `reconnect demo` counts as wrong, and at which moments it checks them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from worker.sandbox.demo.forty_days import FortyDays, Received, Results, Stop, stops
from worker.sandbox.demo.summary import kinds_of
from worker.sandbox.scenario import KINDS, NIGHT, NOON, devices_of, make_demo_members, with_devices, zone_where_it_is

DAYS = (0, 3, 7, 14, 30)


def perfect():
    demo_members = make_demo_members(100)
    return Results(
        demo_members=demo_members,
        at_first={p.member_guid: p.kind.at_first for p in demo_members if p.kind.at_first},
        ended={p.member_guid: p.kind.ends for p in demo_members if p.kind.ends},
    )


def test_even_a_few_members_include_every_kind():
    assert {demo_member.kind.name for demo_member in make_demo_members(100)} == {kind.name for kind in KINDS}


def test_those_who_would_look_like_an_outage_of_mx_stay_few():
    failing = [demo_member for demo_member in make_demo_members(5000) if demo_member.kind.name == "MX: 500 for good"]
    assert len(failing) == 10


def test_every_device_belongs_to_who_has_it():
    demo_members = make_demo_members(200)
    devices = devices_of(demo_members)
    equipped = with_devices(demo_members, [f"address {number}" for number in range(len(devices))])
    addresses = [address for p in {p.user_guid: p for p in equipped}.values() for _, address in p.devices]
    assert addresses == [f"address {number}" for number in range(len(devices))]
    for demo_member in equipped:
        assert [kind for kind, _ in demo_member.devices] == [device.split()[0] for device in demo_member.kind.devices]


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
    results = perfect()
    getattr(results, field)[results.demo_members[0].member_guid] = "cancelled"
    assert [row["kind"] for row in kinds_of(results) if row["wrong"]] == [results.demo_members[0].kind.name]


def test_a_member_that_was_to_be_left_alone_and_was_not_is_wrong():
    results = perfect()
    healthy = next(p for p in results.demo_members if p.kind.name == "healthy")
    results.ended[healthy.member_guid] = "notified"
    assert [row["wrong"] for row in kinds_of(results) if row["kind"] == "healthy"] == [1]


@pytest.mark.parametrize(
    ("kind", "received", "right"),
    [
        ("status DENIED", Received(mails=2), True),
        ("status DENIED", Received(mails=3), False),
        ("status DENIED", Received(mails=1), False),
        ("status DENIED", Received(mails=2, pushes=1), False),
        ("iPhone, no mail", Received(pushes=2), True),
        ("iPhone, no mail", Received(mails=2), False),
        ("clicks the link, allows", Received(mails=1), True),
        ("clicks the link, allows", Received(mails=2), False),
        ("opted out", Received(), True),
        ("opted out", Received(mails=1), False),
    ],
)
def test_a_user_with_too_many_or_too_few_messages_is_found(bare_run, kind, received, right):
    run = bare_run(kind, received)
    wrong = run._miscounted(Stop(at=timedelta(days=3, hours=4), what="reminder 1", rounds=2))
    assert bool(wrong) is not right


@pytest.mark.parametrize(("received", "right"), [(Received(), True), (Received(mails=1), False)])
def test_nobody_may_get_a_message_in_quiet_hours(bare_run, received, right):
    wrong = bare_run("in quiet hours", received)._miscounted(Stop(at=timedelta(0), what="the first message", rounds=1))
    assert bool(wrong) is not right


@pytest.fixture
def bare_run():
    """Makes a run in which one user of this kind received these messages, without a runtime."""

    def make(kind, received):
        run = FortyDays.__new__(FortyDays)
        demo_member = next(p for p in make_demo_members(100) if p.kind.name == kind)
        run._results = Results(demo_members=[demo_member], received={demo_member.user_guid: received})
        return run

    return make
