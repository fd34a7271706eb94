"""The control endpoint: what a test can change while the sandbox runs."""

import time

import pytest


async def statuses(sandbox, count, member="MBR-1"):
    return [(await sandbox.window(member))[0] for _ in range(count)]


async def test_keys_can_be_revoked_and_restored(sandbox):
    await sandbox.control(keys="revoke")
    assert await statuses(sandbox, 2) == [401, 401]
    await sandbox.control(keys="restore")
    assert await statuses(sandbox, 1) == [200]


async def test_keys_can_be_changed(sandbox):
    await sandbox.control(keys={"api_key": "new", "client_id": "client-of-the-test"})
    assert await statuses(sandbox, 1) == [401]
    await sandbox.control(keys={"api_key": "key-of-the-test", "client_id": "client-of-the-test"})
    assert await statuses(sandbox, 1) == [200]


async def test_a_global_fault_strikes_everything_until_it_ends(sandbox):
    await sandbox.control(fault="503:9")
    async with sandbox.get("/users/USR-1/members/MBR-1") as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "9")
    assert await statuses(sandbox, 2) == [503, 503]
    await sandbox.control(fault=None)
    assert await statuses(sandbox, 1) == [200]


@pytest.mark.parametrize("end", [{"share": 0}, {"fault": "500", "share": 0}, {"mix": ["500"], "share": 0}])
async def test_a_share_of_nothing_ends_a_fault(sandbox, end):
    await sandbox.control(mix=["500", "503"])
    assert set(await statuses(sandbox, 3)) <= {500, 503}
    await sandbox.control(**end)
    assert await statuses(sandbox, 2) == [200, 200]


async def test_a_global_fault_takes_no_step_of_a_script(start, member):
    sandbox = await start([member("MBR-1", "409", "ok")])
    await sandbox.control(fault="500")
    assert await statuses(sandbox, 3) == [500] * 3
    await sandbox.control(fault=None)
    assert await statuses(sandbox, 2) == [409, 200]


async def test_a_share_strikes_about_so_many_and_the_same_ones_again(sandbox):
    fault = {"mix": ["500", "503", "429:1"], "share": 0.3, "seed": 7}
    await sandbox.control(**fault)
    first = await statuses(sandbox, 200)
    await sandbox.control(**fault)
    assert await statuses(sandbox, 200) == first
    struck = [status for status in first if status != 200]
    assert 30 <= len(struck) <= 90
    assert set(struck) == {500, 503, 429}


async def test_a_mix_takes_the_place_of_the_fault(sandbox):
    await sandbox.control(fault="503", mix=["500"])
    assert await statuses(sandbox, 5) == [500] * 5


async def test_a_fault_can_spare_reads_or_windows(sandbox):
    await sandbox.control(fault="500", on="window")
    assert await statuses(sandbox, 1) == [500]
    await sandbox.member()
    await sandbox.control(fault="500", on="read")
    assert await statuses(sandbox, 1) == [200]
    async with sandbox.get("/users/USR-1/members/MBR-1") as response:
        assert response.status == 500


async def test_a_fault_of_windows_leaves_reads_alone(sandbox):
    await sandbox.control(fault="null_uri")
    assert (await sandbox.window())[1]["member"]["oauth_window_uri"] is None
    assert (await sandbox.member())["guid"] == "MBR-1"


async def test_a_slow_bank_still_answers(sandbox):
    await sandbox.control(fault="slow:0.2")
    began = time.monotonic()
    assert await statuses(sandbox, 1) == [200]
    await sandbox.member()
    assert time.monotonic() - began >= 0.4


async def test_latency_delays_every_answer(sandbox):
    await sandbox.control(latency=0.2)
    began = time.monotonic()
    await sandbox.window()
    assert time.monotonic() - began >= 0.2
    await sandbox.control(latency=0)


async def test_a_script_can_be_replaced_for_one_or_for_many(start, member):
    sandbox = await start([member("MBR-1"), member("MBR-2"), member("MBR-3")])
    await sandbox.control(member="MBR-1", script=["409", "ok"])
    assert await statuses(sandbox, 2) == [409, 200]
    await sandbox.control(member=["MBR-1", "MBR-2"], script=["unsupported"])
    assert [(await sandbox.window(guid))[0] for guid in ("MBR-1", "MBR-2", "MBR-3")] == [400, 400, 200]


async def test_a_status_can_be_set(sandbox):
    await sandbox.control(member="MBR-1", connection_status="CONNECTED")
    assert (await sandbox.member())["connection_status"] == "CONNECTED"
    await sandbox.control(member="MBR-1", connection_status="SOMETHING_NEW")
    assert (await sandbox.member())["connection_status"] == "SOMETHING_NEW"


async def test_consent_is_given_in_the_newest_window(sandbox):
    older, newer = await sandbox.mint(), await sandbox.mint()
    await sandbox.control(consent="MBR-1")
    assert (await sandbox.member())["connection_status"] == "CONNECTED"
    assert (await sandbox.decide(newer))[0] == 410
    assert (await sandbox.decide(older))[0] == 200


async def test_consent_that_cannot_be_given_is_told_and_the_rest_is_done(start, member):
    sandbox = await start([member("MBR-1"), member("MBR-2"), member("MBR-3")])
    await sandbox.mint("MBR-1")
    await sandbox.mint("MBR-2")
    await sandbox.control(consent="MBR-1")
    answer = await sandbox.control(expect=409, consent=["MBR-1", "MBR-2", "MBR-3"])
    assert answer["refused"] == {"MBR-1": "the link was already used", "MBR-3": "no window was minted"}
    assert (await sandbox.member("MBR-2"))["connection_status"] == "CONNECTED"


async def test_a_reset_ledger_forgets_counts_but_no_window(sandbox):
    state = await sandbox.mint()
    await sandbox.control(reset="ledger")
    ledger = await sandbox.json("/sandbox/ledger")
    assert (ledger["requests"], ledger["windows_minted"], ledger["members"]) == (0, 0, {})
    assert (await sandbox.json("/sandbox/rate"))["total"] == 0
    assert (await sandbox.decide(state))[0] == 200


async def test_several_commands_come_together(sandbox):
    answer = await sandbox.control(latency=0, member="MBR-1", script=["409"], reset="ledger")
    assert answer == {"done": ["latency", "member", "reset", "script"]}
    assert await statuses(sandbox, 1) == [409]


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ({}, 400, "expected at least one command; known are keys, fault"),
        ({"fualt": "503"}, 400, "'fualt' is not a known field; known are keys, fault"),
        ({"fault": "5o3"}, 400, "did you mean 503?"),
        ({"mix": []}, 400, "mix: "),
        ({"mix": ["500", "nope"]}, 400, "mix.1: 'nope' is not a known step"),
        ({"fault": "500", "share": -0.1}, 400, "share: "),
        ({"share": 0.5}, 400, "share, seed and on go with fault or mix"),
        ({"latency": -1}, 400, "latency: "),
        ({"keys": "forget"}, 400, "keys"),
        ({"script": ["ok"]}, 400, "member goes with"),
        ({"member": "MBR-1"}, 400, "member goes with"),
        ({"member": "MBR-9", "script": ["ok"]}, 404, "no such member"),
        ({"consent": "MBR-9"}, 404, "no such member"),
        ({"reset": "everything"}, 400, "reset: "),
        ({"mail_faults": [{"fault": "rcpt:250"}]}, 400, "is not a known mail fault; known are mail:CODE TEXT"),
        ({"mail_faults": [{"to": "a@*", "fault": "mail:450"}]}, 400, "before a recipient is named"),
    ],
)
async def test_a_command_with_a_mistake_changes_nothing_and_says_why(sandbox, command, status, told):
    # The valid part of the command is not carried out either.
    sensible = {"member": "MBR-1", "script": ["409"]} if not command.keys() & {"member", "script"} else {"latency": 60}
    answer = await sandbox.control(expect=status, **(sensible | command if command else {}))
    assert told in answer["error"]
    assert "\n" not in answer["error"]
    began = time.monotonic()
    assert await statuses(sandbox, 1) == [200]
    assert time.monotonic() - began < 30


async def test_a_foreign_web_page_cannot_send_commands(sandbox):
    # A form or a "simple" request of another origin may send these types, but not application/json.
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        headers = {"Content-Type": content_type}
        async with sandbox.http.post(
            sandbox.addresses.control, data=b'{"keys": "revoke"}', headers=headers
        ) as response:
            assert response.status == 415
    assert await statuses(sandbox, 1) == [200]
