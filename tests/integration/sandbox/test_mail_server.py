"""The mailbox and its faults, as an SMTP client sees them."""

import asyncio
import contextlib
import time
from email.message import EmailMessage

import aiosmtplib
import pytest

SENDER = "bank@app.example"


def mail(message_id="<1@app.example>", text="Please reconnect.\r\n.\r\n..and so on"):
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = "someone@customers.example"
    message["Subject"] = "Reconnect your bank"
    message["Message-ID"] = message_id
    message.set_content(text)
    return message.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


async def send(sandbox, *recipients, content=None, **options):
    async with sandbox.smtp(**options) as client:
        return await client.sendmail(SENDER, recipients or ["ann@customers.example"], content or mail())


async def kept(sandbox):
    return await sandbox.json("/sandbox/mail.json")


async def test_a_mail_is_kept_byte_for_byte(sandbox):
    content = mail()
    await send(sandbox, content=content)
    (file,) = sandbox.mail_dir.iterdir()
    assert file.read_bytes() == content
    assert file.name.startswith("00000001-")
    assert file.suffix == ".eml"
    assert "ann" not in file.name


async def test_the_index_knows_message_ids_and_recipients(sandbox):
    await send(sandbox, "ann@customers.example", content=mail("<1@app.example>"))
    await send(sandbox, "ann@customers.example", "ben@customers.example", content=mail("<2@app.example>"))
    index = await kept(sandbox)
    assert index["count"] == 2
    assert index["recipients"] == {"ann@customers.example": 2, "ben@customers.example": 1}
    assert [(one["number"], one["message_id"]) for one in index["mails"]] == [
        (1, "<1@app.example>"),
        (2, "<2@app.example>"),
    ]
    assert index["repeated"] == {}
    assert [one["number"] for one in (await sandbox.json("/sandbox/mail.json?after=1"))["mails"]] == [2]
    assert [one["number"] for one in (await sandbox.json("/sandbox/mail.json?to=BEN@customers.example"))["mails"]] == [
        2
    ]
    assert "mails" not in await sandbox.json("/sandbox/mail.json?mails=false")


async def test_a_message_id_that_came_twice_is_shown(sandbox):
    for message_id in ("<1@app.example>", "<2@app.example>", "<1@app.example>"):
        await send(sandbox, content=mail(message_id))
    assert (await kept(sandbox))["repeated"] == {"<1@app.example>": 2}


async def test_a_folded_message_id_is_understood(sandbox):
    content = mail().replace(b"Message-ID: <1@", b"Message-ID:\r\n <1@")
    await send(sandbox, content=content)
    assert (await kept(sandbox))["mails"][0]["message_id"] == "<1@app.example>"


async def test_an_address_outside_of_ascii_is_taken(sandbox):
    async with sandbox.smtp() as client:
        await client.sendmail(SENDER, ["jürgen@customers.example"], mail(), mail_options=["SMTPUTF8"])
    assert (await kept(sandbox))["recipients"] == {"jürgen@customers.example": 1}


async def test_numbers_go_on_in_a_folder_that_holds_mail(start, tmp_path):
    first = await start(mail_dir=tmp_path / "same")
    await send(first)
    second = await start(mail_dir=tmp_path / "same")
    await send(second, content=mail("<2@app.example>"))
    assert [one["number"] for one in (await kept(second))["mails"]] == [2]
    assert len(list((tmp_path / "same").iterdir())) == 2


async def test_bodies_can_be_dropped(start, tmp_path):
    sandbox = await start(keep_bodies=False)
    await send(sandbox)
    assert (await kept(sandbox))["count"] == 1
    assert not (tmp_path / "mail-0").exists()
    async with sandbox.get("/sandbox/mail", headers={}) as response:
        assert "Only counts are kept here: 1 so far" in await response.text()
    async with sandbox.get("/sandbox/mail/1", headers={}) as response:
        assert response.status == 404


async def test_a_folder_that_fills_up_is_a_452(sandbox):
    sandbox.mail_dir.rmdir()
    with pytest.raises(aiosmtplib.SMTPDataError) as caught:
        await send(sandbox)
    assert caught.value.code == 452
    assert (await kept(sandbox))["count"] == 0


@pytest.mark.parametrize(
    ("fault", "error", "code", "text"),
    [
        ("mail:450", aiosmtplib.SMTPSenderRefused, 450, "Try again later"),
        ("mail:550 5.7.1 Go away", aiosmtplib.SMTPSenderRefused, 550, "5.7.1 Go away"),
        ("data:451", aiosmtplib.SMTPDataError, 451, "Try again later"),
        ("data:554 5.6.0 Bad content", aiosmtplib.SMTPDataError, 554, "5.6.0 Bad content"),
        ("421", aiosmtplib.SMTPSenderRefused, 421, "Too busy"),
        ("auth-required", aiosmtplib.SMTPSenderRefused, 530, "5.7.0"),
    ],
)
async def test_a_refusal_keeps_nothing(sandbox, fault, error, code, text):
    await sandbox.control(mail_faults=[{"fault": fault}])
    with pytest.raises(error) as caught:
        await send(sandbox)
    assert caught.value.code == code
    assert text in caught.value.message
    assert (await kept(sandbox))["count"] == 0
    await sandbox.control(mail_faults=[])
    await send(sandbox)
    assert (await kept(sandbox))["count"] == 1


async def test_a_recipient_is_refused_and_others_are_not(sandbox):
    await sandbox.control(
        mail_faults=[
            {"to": "*@gone.example", "fault": "rcpt:550 5.1.1 No such user"},
            {"to": "late@*", "fault": "rcpt:450"},
        ]
    )
    errors, _ = await send(sandbox, "ann@gone.example", "LATE@customers.example", "ben@customers.example")
    assert {address: code for address, (code, _) in errors.items()} == {
        "ann@gone.example": 550,
        "LATE@customers.example": 450,
    }
    assert (await kept(sandbox))["recipients"] == {"ben@customers.example": 1}


@pytest.mark.parametrize(("fault", "arrives"), [("drop:before-data", 0), ("drop:in-data", 0), ("drop:after-data", 1)])
async def test_a_hang_up_around_data_keeps_what_it_says(sandbox, fault, arrives):
    await sandbox.control(mail_faults=[{"to": "ann@*", "fault": fault}])
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await send(sandbox)
    await send(sandbox, "ben@customers.example", content=mail("<2@app.example>"))
    index = await kept(sandbox)
    assert index["count"] == arrives + 1
    assert index["recipients"].get("ann@customers.example", 0) == arrives


async def test_dropping_before_data_never_says_354_and_in_data_does(sandbox):
    for fault, said in (("drop:before-data", b""), ("drop:in-data", b"354 ")):
        await sandbox.control(mail_faults=[{"fault": fault}])
        port = int(sandbox.addresses.smtp_url.rpartition(":")[2].partition("?")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for line in (b"HELO x", b"MAIL FROM:<a@app.example>", b"RCPT TO:<b@customers.example>"):
            await reader.readline()
            writer.write(line + b"\r\n")
        await reader.readline()
        writer.write(b"DATA\r\n")
        answer = await reader.readline()
        assert answer[:4] == said
        writer.write(b"Subject: x\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    assert (await kept(sandbox))["count"] == 0


async def test_421_hangs_up_at_the_recipient_it_names(sandbox):
    await sandbox.control(mail_faults=[{"to": "ann@*", "fault": "421"}])
    client = sandbox.smtp()
    await client.connect()
    await client.ehlo()
    await client.mail(SENDER)
    assert (await client.rcpt("ben@customers.example")).code == 250
    with pytest.raises(aiosmtplib.SMTPRecipientRefused) as caught:
        await client.rcpt("ann@customers.example")
    assert caught.value.code == 421
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await client.noop()
    client.close()


async def test_a_rule_is_spent_after_its_times(sandbox):
    await sandbox.control(mail_faults=[{"fault": "mail:450", "times": 2}])
    for _ in range(2):
        with pytest.raises(aiosmtplib.SMTPSenderRefused):
            await send(sandbox)
    await send(sandbox)
    assert (await kept(sandbox))["count"] == 1


async def test_a_share_of_mails_is_refused(sandbox):
    async def refused():
        await sandbox.control(mail_faults=[{"fault": "data:451", "share": 0.4, "seed": 3}])
        places = []
        async with sandbox.smtp() as client:
            for number in range(60):
                try:
                    await client.sendmail(SENDER, ["ann@customers.example"], mail())
                except aiosmtplib.SMTPDataError:
                    places.append(number)
        return places

    first = await refused()
    assert 10 <= len(first) <= 40
    assert await refused() == first


async def test_slow_waits_before_each_reply_to_those_it_names(sandbox):
    await sandbox.control(mail_faults=[{"to": "ann@*", "fault": "slow:0.1"}])
    began = time.monotonic()
    await send(sandbox, "ann@customers.example")
    assert time.monotonic() - began >= 0.3  # RCPT, DATA and the end of the mail


async def test_latency_counts_once_a_command(start):
    sandbox = await start(mail_latency=0.05)
    began = time.monotonic()
    await send(sandbox)
    # Greeting, EHLO, MAIL, RCPT, DATA, the end, QUIT.
    assert time.monotonic() - began >= 7 * 0.05
    await sandbox.control(mail_latency=0)


async def test_a_login_is_checked_where_one_is_set(start):
    sandbox = await start(mail_login=("user", "right"))
    await sandbox.control(mail_faults=[{"fault": "auth-required"}])
    with pytest.raises(aiosmtplib.SMTPAuthenticationError):
        await send(sandbox, username="user", password="wrong")
    await send(sandbox, username="user", password="right")
    assert (await kept(sandbox))["count"] == 1


async def test_any_login_will_do_where_none_is_set_until_logins_are_refused(sandbox):
    await send(sandbox, username="anyone", password="anything")
    await sandbox.control(mail_faults=[{"fault": "auth:535 5.7.8 No"}])
    with pytest.raises(aiosmtplib.SMTPAuthenticationError) as caught:
        await send(sandbox, username="anyone", password="anything")
    assert caught.value.code == 535
    assert (await kept(sandbox))["count"] == 1


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(sandbox):
    client = sandbox.smtp()
    await client.connect()
    await client.ehlo()
    await client.mail(SENDER)
    await client.rcpt("ann@customers.example")
    client.transport.write(b"DATA\r\nSubject: half a mail\r\n\r\nand")
    client.transport.abort()
    client.close()
    await send(sandbox, "ben@customers.example")
    assert (await kept(sandbox))["recipients"] == {"ben@customers.example": 1}
