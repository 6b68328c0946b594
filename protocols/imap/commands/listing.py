"""LIST, with RFC 5258 options, RFC 5819 STATUS, RFC 6154 special use and RFC 9590 METADATA; and LSUB.

All answers come from one read of the account's mailboxes. ``_Tree`` knows what the read implies: which
names have children, which parents are missing, which descendants are subscribed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from storage.annotations import Entries, Place
from storage.model import DELIMITER, INBOX, Mailbox, MailboxList
from storage.names import canonical

from .. import responses
from ..grammar import Cursor
from ..listmatch import compile_pattern
from ..metadataargs import Asked, answer, has_options, parse_entries, parse_options
from ..registry import AUTHENTICATED, Command, Ok, Outcome, ParseContext
from .metadata import long_entries, write_metadata
from .status import HIGHESTMODSEQ, parse_items, write_status

if TYPE_CHECKING:
    from ..session import ImapSession

MAX_PATTERNS: Final = 50
_NAMES_BETWEEN_DRAINS: Final = 500

_SELECTIONS: Final = frozenset({b"SUBSCRIBED", b"REMOTE", b"RECURSIVEMATCH", b"SPECIAL-USE"})
_RETURNS: Final = frozenset({b"SUBSCRIBED", b"CHILDREN", b"SPECIAL-USE"})


@dataclass(frozen=True, slots=True)
class ListArgs:
    reference: str
    patterns: tuple[str, ...]
    selections: frozenset[bytes] = frozenset()
    returns: frozenset[bytes] = frozenset()
    status: tuple[bytes, ...] = ()
    metadata: Asked | None = None


# --- parsing ---


def parse_list(cursor: Cursor, _context: ParseContext) -> ListArgs:
    cursor.space()
    selections: frozenset[bytes] = frozenset()
    if cursor.accept(b"("):
        selections = _parse_selections(cursor)
        cursor.space()
    reference = cursor.mailbox()
    cursor.space()
    patterns = _parse_patterns(cursor)
    returns = _Returns()
    if cursor.accept(b" RETURN ("):
        _parse_returns(cursor, returns)
    cursor.end()
    words = frozenset(returns.words)
    return ListArgs(reference, patterns, selections, words, returns.status, returns.metadata)


def _parse_selections(cursor: Cursor) -> frozenset[bytes]:
    found: set[bytes] = set()
    while not cursor.accept(b")"):
        if found:
            cursor.space()
        option = cursor.keyword()
        if option not in _SELECTIONS:
            raise cursor.error(f"Unknown selection option {option.decode('ascii')}")
        found.add(option)
    if b"RECURSIVEMATCH" in found and not found & {b"SUBSCRIBED", b"SPECIAL-USE"}:
        raise cursor.error("RECURSIVEMATCH needs another selection option")  # RFC 5258 §3.1
    return frozenset(found)


def _parse_patterns(cursor: Cursor) -> tuple[str, ...]:
    if not cursor.accept(b"("):
        return (cursor.list_mailbox(),)
    patterns = [cursor.list_mailbox()]
    while not cursor.accept(b")"):
        cursor.space()
        patterns.append(cursor.list_mailbox())
        if len(patterns) > MAX_PATTERNS:
            raise cursor.error("Too many patterns")
    return tuple(patterns)


@dataclass(slots=True)
class _Returns:
    """Return options as they are read."""

    words: set[bytes] = field(default_factory=set)
    status: tuple[bytes, ...] = ()
    metadata: Asked | None = None


def _parse_returns(cursor: Cursor, found: _Returns) -> None:
    is_first = True
    while not cursor.accept(b")"):
        if not is_first:
            cursor.space()
        is_first = False
        option = cursor.keyword()
        if option == b"STATUS":
            cursor.space()
            found.status = parse_items(cursor)
        elif option == b"METADATA":
            cursor.space()
            found.metadata = _parse_metadata(cursor)
        elif option in _RETURNS:
            found.words.add(option)
        else:
            raise cursor.error(f"Unknown return option {option.decode('ascii')}")


def _parse_metadata(cursor: Cursor) -> Asked:
    options = Asked({})
    if has_options(cursor):
        options = parse_options(cursor)
        cursor.space()
    return parse_entries(cursor, options)


# --- the account's names ---


def _ancestors(name: str) -> Iterator[str]:
    position = name.find(DELIMITER)
    while position > 0:
        yield name[:position]
        position = name.find(DELIMITER, position + 1)


def _implied(names: Iterable[str]) -> set[str]:
    return {ancestor for name in names for ancestor in _ancestors(name)}


class _Tree:
    def __init__(self, listed: MailboxList, hidden: frozenset[bytes]) -> None:
        self._hidden = hidden  # capabilities that the client is not told of
        self.mailboxes = {mailbox.name: mailbox for mailbox in listed.mailboxes}
        self.subscribed = listed.subscribed
        self.parents = _implied(self.mailboxes)
        self.subscribed_parents = _implied(self.subscribed)
        self.special_parents = _implied(m.name for m in listed.mailboxes if m.special_use is not None)

    def attributes(self, name: str, returns: frozenset[bytes]) -> list[bytes]:
        mailbox = self.mailboxes.get(name)
        found = [] if mailbox is not None else [b"\\NonExistent", b"\\Noselect"]
        if b"SUBSCRIBED" in returns and name in self.subscribed:
            found.append(b"\\Subscribed")
        if b"CHILDREN" not in self._hidden:
            found += self._children(name, is_asked=mailbox is not None or b"CHILDREN" in returns)
        if mailbox is not None and b"SPECIAL-USE" not in self._hidden:
            found += responses.special_use(mailbox.special_use)
        return found

    def _children(self, name: str, *, is_asked: bool) -> list[bytes]:
        if name in self.parents:
            return [b"\\HasChildren"]
        return [b"\\HasNoChildren"] if is_asked else []

    def candidates(self, selections: frozenset[bytes]) -> set[str]:
        """Names that are selected, whatever the pattern."""
        if b"SUBSCRIBED" not in selections:
            return self._special() if b"SPECIAL-USE" in selections else {*self.mailboxes, *self.parents}
        names = set(self.subscribed)
        return names & self._special() if b"SPECIAL-USE" in selections else names

    def _special(self) -> set[str]:
        return {name for name, mailbox in self.mailboxes.items() if mailbox.special_use is not None}

    def childinfo(self, name: str, selections: frozenset[bytes]) -> bytes:
        """The CHILDINFO item: what RECURSIVEMATCH found below a name (RFC 5258 §3.5)."""
        if b"RECURSIVEMATCH" not in selections:
            return b""
        below = []
        if b"SUBSCRIBED" in selections and name in self.subscribed_parents:
            below.append(b'"SUBSCRIBED"')
        if b"SPECIAL-USE" in selections and name in self.special_parents:
            below.append(b'"SPECIAL-USE"')
        return b'("CHILDINFO" (%b))' % b" ".join(below) if below else b""


# --- running ---


def _is_extended(args: ListArgs) -> bool:
    return bool(args.selections or args.returns or args.status) or args.metadata is not None


async def _list_mailboxes(session: ImapSession, args: ListArgs) -> MailboxList:
    """The account's own, and those of other namespaces that a pattern or a subscription names literally.

    A mere ``*`` must not make clients download them. Where both have a name, the account's own is meant.
    """
    listed = await session.services.mail.list_mailboxes(session.user.account_id)
    patterns = [canonical(args.reference + pattern) for pattern in args.patterns]
    more: dict[str, Mailbox] = {}
    for namespace in session.services.namespaces:
        if any(_names_root(name, namespace.root) for name in (*patterns, *listed.subscribed)):
            more |= {each.name: each for each in await namespace.mailboxes(session.user.account_id)}
    if not more:
        return listed
    more |= {mailbox.name: mailbox for mailbox in listed.mailboxes}
    return MailboxList(tuple(more.values()), listed.subscribed)


def _names_root(pattern: str, root: str) -> bool:
    """Whether ``pattern`` is literal as far as ``root``, and goes no other way behind it."""
    return pattern.startswith(root) and pattern[len(root) :][:1] in ("", DELIMITER, "*", "%")


async def run_list(session: ImapSession, args: ListArgs) -> Outcome:
    if args.patterns == ("",) and not _is_extended(args):
        # RFC 9051 §6.3.9: asks for the delimiter, in the basic syntax only
        session.send(responses.listing(b"LIST", [b"\\Noselect"], "", utf8=session.utf8))
        return Ok("Done")
    if HIGHESTMODSEQ in args.status:
        session.enable_condstore()
    tree = _Tree(await _list_mailboxes(session, args), session.hidden)
    notes = await _Notes.read(session, args.metadata)
    returns = args.returns | (args.selections & _RETURNS)
    selected = tree.candidates(args.selections)
    names = _matching(selected, args)
    for number, name in enumerate(sorted(names, key=lambda name: (name != INBOX, name)), 1):
        if number % _NAMES_BETWEEN_DRAINS == 0:
            await session.connection.drain()
        session.send(
            responses.listing(
                b"LIST",
                tree.attributes(name, returns),
                name,
                utf8=session.utf8,
                extended=tree.childinfo(name, args.selections),
            )
        )
        if name in selected:  # not where only children are (RFC 5819 §2)
            _write_status(session, tree.mailboxes.get(name), args.status)
            notes.write(tree.mailboxes.get(name))
    return Ok("Done", long_entries(notes.longest))


class _Notes:
    """The annotations that go with the names."""

    def __init__(self, session: ImapSession, asked: Asked | None, found: Mapping[Place, Entries]) -> None:
        self._session = session
        self._asked = asked
        self._found = found
        self.longest = 0

    @classmethod
    async def read(cls, session: ImapSession, asked: Asked | None) -> _Notes:
        """One read for all mailboxes, none where nothing is asked."""
        if asked is None:
            return cls(session, asked, {})
        annotations, account_id = session.annotations, session.user.account_id
        if asked.depth == 0:
            return cls(session, asked, await annotations.of_mailboxes(account_id, list(asked.entries)))
        return cls(session, asked, await annotations.everything(account_id))

    def write(self, mailbox: Mailbox | None) -> None:
        if mailbox is None or self._asked is None:
            return
        told = answer(self._asked, self._found.get(mailbox.id, {}))
        self.longest = max(self.longest, told.longest)
        write_metadata(self._session, mailbox.name, told)


def _matching(selected: set[str], args: ListArgs) -> set[str]:
    matchers = [compile_pattern(args.reference + pattern) for pattern in args.patterns]

    def matches(name: str) -> bool:
        return any(matcher(name) for matcher in matchers)

    found = set(filter(matches, selected))
    if b"RECURSIVEMATCH" in args.selections:  # parents of what is not shown itself (RFC 9051 §6.3.9.3)
        found |= set(filter(matches, _implied(selected - found)))
    return found


def _write_status(session: ImapSession, mailbox: Mailbox | None, items: tuple[bytes, ...]) -> None:
    if mailbox is not None and items:
        write_status(session, mailbox, items)


def parse_lsub(cursor: Cursor, _context: ParseContext) -> ListArgs:
    cursor.space()
    reference = cursor.mailbox()
    cursor.space()
    pattern = cursor.list_mailbox()
    cursor.end()
    return ListArgs(reference, (pattern,))


async def run_lsub(session: ImapSession, args: ListArgs) -> Outcome:
    """With ``%``, parents of subscribed names are named too, as not selectable (RFC 3501 §6.3.9)."""
    tree = _Tree(await session.services.mail.list_mailboxes(session.user.account_id), session.hidden)
    pattern = args.reference + args.patterns[0]
    matches = compile_pattern(pattern)
    names = set(tree.subscribed)
    if pattern.endswith("%") and "*" not in pattern:  # else the subscribed names match themselves
        names |= tree.subscribed_parents
    for number, name in enumerate(sorted(names), 1):
        if number % _NAMES_BETWEEN_DRAINS == 0:
            await session.connection.drain()
        if matches(name):
            attributes = [] if name in tree.subscribed else [b"\\Noselect"]
            session.send(responses.listing(b"LSUB", attributes, name, utf8=session.utf8))
    return Ok("Done")


LIST = Command(
    b"LIST",
    AUTHENTICATED,
    parse_list,
    run_list,
    "RFC 9051 §6.3.9",
    capabilities=(b"LIST-EXTENDED", b"LIST-METADATA", b"LIST-STATUS", b"SPECIAL-USE"),
)
LSUB = Command(b"LSUB", AUTHENTICATED, parse_lsub, run_lsub, "RFC 3501 §6.3.9")
