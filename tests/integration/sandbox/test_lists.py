"""Lists of users and members: pages like MX's, and wrong pages that a test asks for."""

import pytest


@pytest.fixture
async def many(start, member):
    """100 users with a member each. The first ten have a second member."""
    rows = [member(f"MBR-{n:03}", user_guid=f"USR-{n:03}", email=f"u{n}@mail.example") for n in range(100)]
    return await start([*rows, *(member(f"MBR-x{n}", user_guid=f"USR-{n:03}") for n in range(10))])


async def page(sandbox, path="/users", **query):
    async with sandbox.get(path, params=query) as response:
        assert response.status == 200, await response.text()
        body = await response.json()
    rows = body.get("users", body.get("members"))
    return [row["guid"] for row in rows], body["pagination"]


async def test_a_page_size_that_mx_lowers_becomes_25_without_a_word(many):
    await many.control(lists={"most_per_page": 50})
    guids, said = await page(many, records_per_page="51")
    assert (len(guids), said["per_page"], said["total_pages"]) == (25, 25, 4)
    guids, said = await page(many, records_per_page="50")
    assert (len(guids), said["per_page"], said["total_pages"]) == (50, 50, 2)


async def test_a_list_can_shrink_in_the_middle(many):
    await many.control(lists={"shrink": 0.5, "after": 1})
    _, said = await page(many)
    assert said["total_entries"] == 100
    guids, said = await page(many, page="2")
    assert (len(guids), said["total_entries"], said["total_pages"]) == (25, 50, 2)
    guids, _ = await page(many, page="3")
    assert guids == []
    await many.control(lists={})
    assert (await page(many))[1]["total_entries"] == 100


async def test_a_total_can_lie_and_pages_can_repeat(many):
    await many.control(lists={"total": 7, "repeat": True})
    first, said = await page(many)
    second, _ = await page(many, page="2")
    assert first == second
    assert (said["total_entries"], said["total_pages"]) == (7, 1)


async def test_a_member_can_be_listed_for_two_users_or_for_none(many):
    await many.control(lists={"also": {"USR-050": ["MBR-001"]}, "hide": ["MBR-050", "USR-099"]})
    async with many.get("/users/USR-050/members") as response:
        (listed,) = (await response.json())["members"]
    assert (listed["guid"], listed["user_guid"]) == ("MBR-001", "USR-050")
    assert (await page(many, page="4"))[1]["total_entries"] == 99
    assert (await many.member("MBR-050", "USR-050"))["guid"] == "MBR-050"


async def test_lists_alone_can_fail(many):
    await many.control(fault="500", on="list")
    async with many.get("/users") as response:
        assert response.status == 500
    assert (await many.member("MBR-000", "USR-000"))["guid"] == "MBR-000"
    ledger = await many.json("/sandbox/ledger?members=false")
    assert (ledger["lists"], ledger["reads"]) == (1, 2)


async def test_what_was_deleted_is_neither_listed_nor_read(many):
    await many.control(delete=["MBR-x0", "USR-099"])
    assert (await page(many, "/users/USR-000/members"))[0] == ["MBR-000"]
    assert (await page(many))[1]["total_entries"] == 99
    for path in ("/users/USR-000/members/MBR-x0", "/users/USR-099/members", "/users/USR-099/members/MBR-099"):
        async with many.get(path) as response:
            assert response.status == 404
    await many.control(delete="USR-nobody", expect=404)
