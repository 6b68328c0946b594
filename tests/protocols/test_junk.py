"""Mail that is marked as spam: which is, where it goes, and whose word counts more."""

from __future__ import annotations

import pytest

from protocols.junk import JunkRule
from protocols.scriptlibrary import SiteScripts
from storage.model import SpecialUse
from tests.protocols.test_filtering import ANN, MESSAGE, World
from tests.support.mailhost import mail_host

FLAG = b"X-Spam-Flag: YES\r\n"
STATUS = b"X-Spam-Status: Yes, score=%s required=5.0 tests=A,\r\n\tB\r\n"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Subject: X-Spam-Flag: YES\r\n", False),
        (b"", False),
        (FLAG, True),
        (b"Subject: x\r\nx-spam-flag : yes\r\n", True),
        (b"X-Spam-Flag: NO\r\n", False),
        (STATUS % b"5.0", True),
        (STATUS % b"4.9", False),
        (STATUS % b"-1", False),
        (b"X-Rspamd-Score: 15.2 / 15\r\n", True),
        (b"X-Spamd-Result: default: False [3.1 / 15.00]\r\n", False),
        (b"X-Spam: Yes\r\n", False),
    ],
)
def test_what_filters_write(header: bytes, expected: bool) -> None:
    assert JunkRule().is_spam(header + b"\r\n") is expected


def test_threshold() -> None:
    strict, lax = JunkRule(25), JunkRule(100)
    assert [rule.is_spam(STATUS % b"3.0") for rule in (strict, lax)] == [True, False]
    assert [rule.is_spam(STATUS % b"10.0") for rule in (strict, lax)] == [True, True]


@pytest.mark.parametrize(
    ("field", "header", "expected"),
    [
        ((b"x-spam", b"yes"), b"X-Spam: YES, surely\r\n", True),
        ((b"x-spam", b"yes"), b"X-Spam: yesterday\r\n", False),
        ((b"x-spam", b"yes"), b"X-Spam: no\r\nX-SPAM: Yes\r\n", True),
        ((b"x-bulk", b""), b"X-Bulk: whatever\r\n", True),
        ((b"x.y", b""), b"Xzy: 1\r\n", False),
    ],
)
def test_fields_of_the_site(field: tuple[bytes, bytes], header: bytes, expected: bool) -> None:
    assert JunkRule(fields=[field]).is_spam(header) is expected


@pytest.fixture
async def world() -> World:
    world = World(await mail_host())
    world.junk = JunkRule()
    world.build()
    return world


async def counts(world: World) -> dict[str, int]:
    mailboxes = (await world.host.store.list_mailboxes(await world.account())).mailboxes
    return {each.name: each.messages for each in mailboxes if each.messages}


async def test_marked_mail_goes_to_junk_and_other_mail_does_not(world: World) -> None:
    assert await world.send(message=FLAG + MESSAGE) == [None]
    assert await world.send() == [None]
    assert await counts(world) == {"Junk": 1, "INBOX": 1}


async def test_a_second_attempt_makes_no_second_copy(world: World) -> None:
    for _ in range(2):
        assert await world.send(message=FLAG + MESSAGE) == [None]
    assert await counts(world) == {"Junk": 1}


async def test_junk_under_another_name(world: World) -> None:
    await world.host.store.rename_mailbox(await world.account(), "Junk", "Unwanted")
    await world.send(message=FLAG + MESSAGE)
    assert await counts(world) == {"Unwanted": 1}


async def test_junk_that_is_not_there_is_made(world: World) -> None:
    await world.host.store.delete_mailbox(await world.account(), "Junk")
    await world.send(message=FLAG + MESSAGE)
    mailbox = await world.host.store.get_mailbox(await world.account(), "Junk")
    assert (mailbox.special_use, mailbox.messages) == (SpecialUse.JUNK, 1)


async def test_off_means_inbox(world: World) -> None:
    world.junk = None
    world.build()
    await world.send(message=FLAG + MESSAGE)
    assert await counts(world) == {"INBOX": 1}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("keep;", "INBOX"),
        ('require "fileinto"; fileinto "Archive";', "Archive"),
        ('if header :is "subject" "other" { discard; }', "Junk"),
        ('require "imap4flags"; setflag "$seen";', "Junk"),
        ('require ["spamtest"]; if spamtest :is "10" { discard; }', "INBOX"),
        (
            'require "spamtest"; if header :is "subject" "other" { if spamtest :is "10" { discard; } }',
            "INBOX",
        ),
        ('require ["spamtest", "spamtestplus"]; if spamtest :percent :is "99" { discard; }', "INBOX"),
        ("stop;", "Junk"),
    ],
)
async def test_the_word_of_a_user_counts_more(world: World, script: str, expected: str) -> None:
    await world.put(script)
    status = STATUS % b"6.0"
    assert await world.send(message=status + MESSAGE) == [None]
    assert await counts(world) == {expected: 1}


async def test_a_script_of_the_site_that_says_nothing_changes_nothing(world: World) -> None:
    world.site = SiteScripts(before=b'if header :is "subject" "other" { discard; }')
    world.build()
    await world.send(ANN, "bob@example.test", message=FLAG + MESSAGE)
    assert await counts(world) == {"Junk": 1}


async def test_a_script_that_goes_wrong_does_not_hide_the_mark(world: World) -> None:
    await world.put('require "no-such-thing";')
    await world.send(message=FLAG + MESSAGE)
    assert await counts(world) == {"Junk": 1, "INBOX": 1}  # and the note to the owner of the script
