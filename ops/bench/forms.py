"""The two forms of the benchmark, short and full: their sizes and numbers of rounds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form."""

    name: str
    rounds: int
    #: Members of one run of the whole job.
    members: int
    #: Members of one run of a rival.
    rival_members: int
    rival_rounds: int
    #: Whether several settings of each rival are tried first. If not, the best of the last time are used.
    tries_rivals: bool
    #: Requests in flight at the points of the curve. Empty: no curve.
    curve: tuple[int, ...]
    #: Sizes of the members table for a sweep; the last is compared with the first.
    tables: tuple[int, ...]
    #: Members in the measure of sweeps beside other reconnections, and how many of those have ended and are open.
    standing_members: int
    standing: tuple[tuple[int, int], ...]
    #: Breaks a day in the measure of thirty days.
    breaks_a_day: int
    #: Reconnections that one sweep opens in the measure of its memory: few, then many.
    openings: tuple[int, int]
    import_rows: int
    import_rounds: int
    mails: int
    mail_connections: tuple[int, ...]
    #: Seconds for which the slow tail is watched after the first slow answers have come.
    tail_seconds: int
    tail_rounds: int
    #: Whether the slow tail of bare aiohttp is measured too.
    tail_of_bare: bool
    #: Members after which a child's memory is compared: few, then many.
    memory: tuple[int, int]
    #: Users of one sync, and the number of rounds.
    sync_users: int
    sync_rounds: int


SHORT = Form(
    name="bench",
    rounds=5,
    members=6_000,
    rival_members=1_000,
    rival_rounds=1,
    tries_rivals=False,
    curve=(),
    tables=(100_000, 1_000_000),
    standing_members=1_000_000,
    standing=((500_000, 0), (500_000, 300_000)),
    breaks_a_day=2_000,
    openings=(20_000, 200_000),
    import_rows=1_000_000,
    import_rounds=2,
    mails=300,
    mail_connections=(10,),
    tail_seconds=10,
    tail_rounds=1,
    tail_of_bare=False,
    memory=(16_000, 24_000),
    sync_users=10_000,
    sync_rounds=3,
)

FULL = Form(
    name="bench-full",
    rounds=5,
    members=30_000,
    rival_members=6_000,
    rival_rounds=5,
    tries_rivals=True,
    curve=(50, 100, 200, 400, 800),
    tables=(100_000, 1_000_000, 10_000_000),
    standing_members=14_000_000,
    standing=((500_000, 0), (500_000, 300_000), (5_000_000, 1_000_000), (10_000_000, 3_000_000)),
    breaks_a_day=50_000,
    openings=(50_000, 1_000_000),
    import_rows=1_000_000,
    import_rounds=5,
    mails=10_000,
    mail_connections=(10, 20, 40),
    tail_seconds=60,
    tail_rounds=5,
    tail_of_bare=True,
    memory=(50_000, 1_000_000),
    sync_users=100_000,
    sync_rounds=3,
)
