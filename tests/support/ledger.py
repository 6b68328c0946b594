"""A day's mail as generated, and where each message has to end: filed, relayed, bounced or answered, once.

The double-entry side: ``Day`` says what must be found from what it sends, knowing what each account's script
does; ``found_in_mailboxes`` and ``found_outside`` say what is there. Both are counters of ``Entry``.
"""

from __future__ import annotations

import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.utils import parseaddr
from typing import Final, NamedTuple

from imapclient import IMAPClient

from tests.support.postfix import Mail

DOMAIN: Final = "local.test"
OUTSIDE: Final = "outside.test"
FAR: Final = "far.test"
GONE: Final = f"gone@{FAR}"  # refused by whoever takes mail for it

MARK: Final = re.compile(rb"(?im)^x-mark: *(\S+)")
_SUM: Final = re.compile(rb"(?im)^x-sum: *(\S+)")


def checksum(body: bytes) -> str:
    """Of lines, however they end."""
    return format(zlib.crc32(b"\n".join(body.splitlines())), "08x")


def is_whole(header: bytes, body: bytes) -> bool:
    """Whether the body is the one that the header was sent with."""
    found = _SUM.search(header)
    return found is not None and found[1].decode() == checksum(body)


class Entry(NamedTuple):
    """``what``: filed, returned (filed after it had gone out by the relay), relayed, bounced, answered, noted
    (mail of the server's own to an account; counted once), or altered, which nothing may be. ``where``:
    ``account/mailbox`` or an address."""

    what: str
    mark: str
    where: str


class Kind(NamedTuple):
    """What a message looks like to a script."""

    subject: str = "hello"
    header: str = ""  # more of it
    may_be_answered: bool = True


KINDS: Final = {
    "plain": Kind(),
    "bill": Kind("[bill] for you"),
    "bad": Kind("[bad] offer"),
    "junk": Kind("[junk] offer"),
    "list": Kind("news", "List-Id: <news.outside.test>\n", may_be_answered=False),
    "auto": Kind("report", "Auto-Submitted: auto-generated\n", may_be_answered=False),
    "bulk": Kind("to all", "Precedence: bulk\n", may_be_answered=False),
}


@dataclass(frozen=True)
class Account:
    """``ends``: where a message of a kind ends, by kind; ``""`` is for all others. An end is ``mailbox``,
    ``>address`` (relayed), ``@account/mailbox`` (filed there by way of the relay), ``!`` (bounced to its
    sender), ``~`` (answered, once for each sender) or ``*`` (the owner is told, once)."""

    name: str
    script: str
    ends: Mapping[str, tuple[str, ...]]

    @property
    def address(self) -> str:
        return f"{self.name}@{DOMAIN}"

    def of(self, kind: str) -> tuple[str, ...]:
        return self.ends.get(kind, self.ends[""])


ACCOUNTS: Final = tuple(
    Account(*row)
    for row in (
        ("plain", "", {"": ("INBOX",)}),
        (
            "filer",
            """
            require ["fileinto", "mailbox", "copy"];
            if header :contains "Subject" "[bill]" { fileinto :create "Bills"; }
            elsif exists "List-Id" { fileinto :create "Lists"; fileinto :create :copy "Archive"; }
            elsif header :contains "Subject" "[junk]" { discard; }
            """,
            {"bill": ("Bills",), "list": ("Lists", "Archive"), "junk": (), "": ("INBOX",)},
        ),
        (
            "away",
            f"""
            require "vacation";
            vacation :days 7 :addresses "away@{DOMAIN}" "I am away.";
            """,
            {"": ("INBOX", "~")},
        ),
        (
            "guard",
            """
            require ["reject", "fileinto", "mailbox"];
            if header :contains "Subject" "[bad]" { reject "Not with us."; stop; }
            if header :contains "Subject" "[bill]" { fileinto :create "Bills"; }
            """,
            {"bad": ("!",), "bill": ("Bills",), "": ("INBOX",)},
        ),
        ("forward", f'redirect "forwarded@{FAR}";', {"": (f">forwarded@{FAR}",)}),
        (
            "both",
            f'require "copy"; redirect :copy "copied@{FAR}";',
            {"": ("INBOX", f">copied@{FAR}")},
        ),
        (
            "many",
            f"""
            require ["fileinto", "mailbox", "copy", "vacation"];
            redirect :copy "one@{FAR}";
            redirect :copy "two@{FAR}";
            vacation :days 3 :addresses "many@{DOMAIN}" "Away too.";
            fileinto :create "Archive";
            """,
            {"": ("Archive", f">one@{FAR}", f">two@{FAR}", "~")},
        ),
        ("lost", f'redirect "{GONE}";', {"": ("!",)}),
        ("self", f'redirect "self@{DOMAIN}";', {"": ("INBOX",)}),
        ("hop", f'redirect "plain@{DOMAIN}";', {"": ("@plain/INBOX",)}),
        ("ping", f'redirect "pong@{DOMAIN}";', {"": ("@pong/INBOX",)}),
        ("pong", f'redirect "ping@{DOMAIN}";', {"": ("@ping/INBOX",)}),
        (
            "failing",
            'require "variables"; set "to" "nobody at all"; redirect "${to}";',
            {"": ("INBOX", "*")},
        ),
    )
)
BY_NAME: Final = {account.name: account for account in ACCOUNTS}
# what of these would bounce has nobody to bounce to
NEVER_WITHOUT_SENDER: Final = frozenset({"guard", "lost"})


class Letter(NamedTuple):
    mark: str
    sender: str  # "" is the null path
    recipients: tuple[str, ...]
    content: bytes


class Day:
    """``count`` messages of ``senders`` strangers to one, two or three of ``ACCOUNTS``, from a seed."""

    def __init__(self, seed: int, count: int, senders: int, *, name: str = "m") -> None:
        self._random = random.Random(seed)
        self._senders = [f"stranger{n}@{OUTSIDE}" for n in range(senders)]
        self._name = name
        self.expected: Counter[Entry] = Counter()
        self.letters = [self._letter(n) for n in range(count)]

    def _letter(self, number: int) -> Letter:
        chance, mark = self._random, f"{self._name}{number}"
        kind = chance.choices(list(KINDS), [10, 3, 3, 2, 2, 1, 1])[0]
        accounts = chance.sample(ACCOUNTS, chance.choices([1, 2, 3], [6, 2, 1])[0])
        sender = chance.choice(self._senders)
        if kind == "auto" and not NEVER_WITHOUT_SENDER & {account.name for account in accounts}:
            sender = ""
        self._expect(mark, kind, sender, accounts)
        to = ", ".join(account.address for account in accounts)
        content = self._content(mark, KINDS[kind], sender, to)
        return Letter(mark, sender, tuple(account.address for account in accounts), content)

    def _content(self, mark: str, kind: Kind, sender: str, to: str) -> bytes:
        body = "".join(
            f"{self._random.getrandbits(200):050x}\n" for _ in range(self._random.choice([1, 20, 400]))
        )
        author = sender or f"daemon@{OUTSIDE}"
        text = (
            f"From: <{author}>\nTo: {to}\nSubject: {kind.subject}\nMessage-ID: <{mark}@{OUTSIDE}>\n"
            f"Date: Sun, 22 Nov 2026 10:00:00 +0000\nX-Mark: {mark}\nX-Sum: {checksum(body.encode())}\n"
            f"{kind.header}\n{body}"
        )
        return text.replace("\n", "\r\n").encode()

    def _expect(self, mark: str, kind: str, sender: str, accounts: Iterable[Account]) -> None:
        for account in accounts:
            for end in account.of(kind):
                for entry in self._entries(mark, kind, sender, account, end):
                    if entry.what in {"answered", "noted"}:
                        self.expected[entry] = 1
                    else:
                        self.expected[entry] += 1

    def _entries(self, mark: str, kind: str, sender: str, account: Account, end: str) -> Iterator[Entry]:
        if end == "!":
            yield Entry("bounced", mark, sender)
        elif end == "~":
            if sender and KINDS[kind].may_be_answered:
                yield Entry("answered", account.address, sender)
        elif end == "*":
            yield Entry("noted", "", f"{account.name}/INBOX")
        elif end[0] == ">":
            yield Entry("relayed", mark, end[1:])
        elif end[0] == "@":
            yield Entry("returned", mark, end[1:])
        else:
            yield Entry("filed", mark, f"{account.name}/{end}")


def filed(client: IMAPClient, name: str, relay: str) -> Iterator[Entry]:
    """What is in the mailboxes of the account that is logged in, some of it by way of ``relay``."""
    for _flags, _delimiter, mailbox in client.list_folders():
        client.select_folder(mailbox, readonly=True)
        is_noted = False
        for row in client.fetch(client.search(), ["BODY.PEEK[]"]).values():
            header, _, body = row[b"BODY[]"].partition(b"\r\n\r\n")
            if (mark := MARK.search(header)) is None:
                is_noted = True
                continue
            way = "returned" if b"by " + relay.encode() in header else "filed"
            yield Entry(way if is_whole(header, body) else "altered", mark[1].decode(), f"{name}/{mailbox}")
        if is_noted:
            yield Entry("noted", "", f"{name}/{mailbox}")


def sent(mails: Iterable[Mail]) -> Iterator[Entry]:
    """What came to strangers."""
    for mail in mails:
        message = message_from_bytes(mail.content)
        mark = MARK.search(mail.content)
        if message.get_content_type() == "multipart/report":
            assert mark is not None, mail
            yield Entry("bounced", mark[1].decode(), mail.recipient)
        elif message.get("Auto-Submitted", "").startswith("auto-replied"):
            yield Entry("answered", parseaddr(message["From"])[1], mail.recipient)
        else:
            assert mark is not None, mail
            header, _, body = mail.content.partition(b"\n\n")
            yield Entry("relayed" if is_whole(header, body) else "altered", mark[1].decode(), mail.recipient)


def balance(expected: Counter[Entry], found: Counter[Entry]) -> str:
    """What does not agree; empty: the books balance."""
    lost, extra = expected - found, found - expected
    lines = [f"missing {count}: {entry}" for entry, count in sorted(lost.items())]
    lines += [f"too many by {count}: {entry}" for entry, count in sorted(extra.items())]
    return "\n".join(lines[:40] + ([f"and {len(lines) - 40} more"] if len(lines) > 40 else []))
