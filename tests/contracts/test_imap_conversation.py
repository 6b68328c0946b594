"""One conversation of two IMAP sessions, word for word the same on every mail store."""

from __future__ import annotations

import re

from tests.support.imap import ImapLab
from tests.support.stores import Stores

# (session, what it sends, what it hears); validities and modseqs differ between stores and are masked
CONVERSATION = [
    ("ann", "1 APPEND INBOX (\\Seen $a) {5+}\r\nhello",
     "FLAGS|* 1 EXISTS|* 1 RECENT|1 OK [APPENDUID V 1] Appended"),
    ("bob", "1 NOOP", "FLAGS|* 1 EXISTS|* 1 RECENT|1 OK Done"),
    ("bob", "2 APPEND INBOX {3+}\r\nbye", "* 2 EXISTS|* 2 RECENT|2 OK [APPENDUID V 2] Appended"),
    ("ann", "2 STORE 1:2 +FLAGS.SILENT (\\Deleted $B)", "FLAGS|* 2 EXISTS|* 2 RECENT|2 OK Stored"),
    (
        "ann",
        "3 UID FETCH 1:* (FLAGS)",
        "* 1 FETCH (UID 1 FLAGS (\\Deleted \\Seen $B $a \\Recent))|* 2 FETCH (UID 2 FLAGS (\\Recent))|"
        "3 OK FETCH completed",
    ),
    ("bob", "3 STORE 2 -FLAGS (\\Deleted $b)", "FLAGS|* 2 FETCH (FLAGS (\\Recent))|"
     "* 1 FETCH (FLAGS (\\Deleted \\Seen $B $a \\Recent))|3 OK Stored"),
    ("ann", "4 EXPUNGE", "* 1 EXPUNGE|4 OK Expunged"),
    ("bob", "4 UID COPY 2 Archive", "* 1 EXPUNGE|4 OK [COPYUID V 2 1] Copied"),
    ("bob", "5 MOVE 1 Archive", "* OK [COPYUID V 2 2] Moved|* 1 EXPUNGE|5 OK Moved"),
    ("ann", "5 NOOP", "* 1 EXPUNGE|5 OK Done"),
    ("ann", "6 STATUS Archive (MESSAGES UIDNEXT UNSEEN DELETED SIZE)",
     '* STATUS "Archive" (MESSAGES 2 UIDNEXT 3 UNSEEN 2 DELETED 0 SIZE 6)|6 OK Done'),
    ("ann", "7 RENAME Archive Old/Deep", "7 OK Renamed"),
    ("ann", "8 LIST \"\" Old*", '* LIST (\\HasChildren) "/" "Old"|'
     '* LIST (\\HasNoChildren \\Archive) "/" "Old/Deep"|8 OK Done'),
    ("bob", "6 SELECT Old/Deep", "* OK [CLOSED] The previous mailbox is closed|FLAGS|* 2 EXISTS|* 2 RECENT|"
     "* OK [UNSEEN 1] First unseen message|* OK [UIDVALIDITY V] UIDs are valid|"
     "* OK [UIDNEXT 3] Predicted next UID|* OK [HIGHESTMODSEQ M] Highest|6 OK [READ-WRITE] Selected"),
    ("ann", "9 DELETE Old/Deep", "9 OK Deleted"),
    ("bob", "7 NOOP", "* OK [CLOSED] The mailbox was deleted|7 OK Done"),
    ("bob", "8 CREATE New", "8 OK Created"),
    ("ann", "10 LIST \"\" New", '* LIST (\\HasNoChildren) "/" "New"|10 OK Done'),
]  # fmt: skip

MASKS = (
    (r"\* FLAGS [^|]*\|\* OK \[PERMANENTFLAGS [^|]*", "FLAGS"),
    (r"(APPENDUID|COPYUID|UIDVALIDITY) \d+", r"\1 V"),
    (r"HIGHESTMODSEQ \d+", "HIGHESTMODSEQ M"),
)


def masked(answer: bytes) -> str:
    text = answer.decode().removesuffix("\r\n").replace("\r\n", "|")
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return text


async def settled(lab: ImapLab) -> None:
    """Until the views have heard of everything."""
    while refreshing := [entry.refreshing for entry in lab.views._open.values() if entry.refreshing]:
        await refreshing[0]


async def test_conversation(stores: Stores) -> None:
    lab = ImapLab(stores.mail, await stores.new_account())
    sessions = {"ann": await lab.log_in("INBOX"), "bob": await lab.log_in("INBOX")}
    for name, command, expected in CONVERSATION:
        answer = await sessions[name].send(command.encode() + b"\r\n")
        await settled(lab)
        assert masked(answer) == expected, f"{name}: {command}"
    await lab.views.close_all()
