"""Certificates on their way from the control process, which reads and gets them, to the workers.

Only what a worker has not yet is sent, in pieces that fit a frame; then the worker is told which of all it is
to show. What is sent holds keys: it goes over the link alone, and into no log line.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from tls.contexts import Material
from tls.errors import CertificateUnusable
from tls.ports import Generation

from .certificates import Shown
from .link import Answerer, Link, LinkFault

if TYPE_CHECKING:
    from .certificates import Certificates, Materials, Pair

log = logging.getLogger("sora.tls")

PIECE_BYTES: Final = 256 << 10  # of chains and keys in one call
SHOW_WITHIN_S: Final = (
    60.0  # ten thousand new ones take some seconds, and a worker that starts takes some, too
)
RETRY_EVERY_S: Final = 2.0

Item = Generation | tuple["Pair", Material]


class Courier:
    """The control process's side."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._wards: WeakKeyDictionary[Link, _Ward] = WeakKeyDictionary()

    async def bring(self, link: Link) -> None:
        """The worker shows what we do when this returns. Raises LinkFault."""
        await self._ward(link).bring(self._items())

    async def follow(self, link: Link) -> None:
        """``bring`` at every change, until the link is lost."""
        ward, told = self._ward(link), ""
        while not link.lost.done():
            changed = asyncio.create_task(ward.changed.wait())
            either: set[asyncio.Future[Any]] = {changed, link.lost}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if link.lost.done():
                return
            ward.changed.clear()
            try:
                await ward.bring(self._items())
            except LinkFault as error:
                if link.lost.done():
                    return
                if str(error) != told:  # once, not at every attempt
                    told = str(error)
                    log.error("a worker does not take the new certificates and is asked again: %s", error)
                ward.changed.set()
                await asyncio.wait({link.lost}, timeout=RETRY_EVERY_S)
            else:
                told = ""

    def changed(self) -> None:
        """Something else is to be shown."""
        for ward in self._wards.values():
            ward.changed.set()

    def _ward(self, link: Link) -> _Ward:
        return self._wards.setdefault(link, _Ward(link))

    def _items(self) -> list[Item]:
        return [*self._certificates.materials().items(), *self._certificates.served.generations()]


class _Ward:
    """One worker, and what it has."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = itertools.count(1)
        self._known: dict[Item, int] = {}
        self._shown: list[int] | None = None
        self._turn = asyncio.Lock()
        self.changed = asyncio.Event()

    async def bring(self, items: list[Item]) -> None:
        """Raises LinkFault."""
        async with self._turn:
            fresh = {item: next(self._numbers) for item in items if item not in self._known}
            for piece in _pieces(fresh.items()):
                await self._link.call("put_certificates", pickle.dumps(piece), timeout_s=SHOW_WITHIN_S)
            self._known |= fresh
            numbers = [self._known[item] for item in items]
            if numbers != self._shown:
                await self._link.call("show_certificates", numbers, timeout_s=SHOW_WITHIN_S)
                self._shown = numbers
                self._known = {item: self._known[item] for item in items}


def _pieces(numbered: Iterable[tuple[Item, int]]) -> Iterator[list[tuple[Item, int]]]:
    piece: list[tuple[Item, int]] = []
    size = 0
    for item, number in numbered:
        length = _size(item)
        if piece and size + length > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append((item, number))
        size += length
    if piece:
        yield piece


def _size(item: Item) -> int:
    if isinstance(item, Generation):
        return len(item.chain_pem) + len(item.key_pem)
    return len(item[1].chain) + len(item[1].key)


def plain_shown(shown: Shown) -> list[Any]:
    """For the link; ``shown_from`` is the way back."""
    return [
        *(shown.label, list(shown.names), shown.fingerprint),
        *(shown.not_after.timestamp(), shown.fence, shown.wanted_id),
    ]


def shown_from(plain: list[Any]) -> Shown:
    label, names, fingerprint, not_after, fence, wanted_id = plain
    when = datetime.fromtimestamp(not_after, UTC)
    return Shown(label, tuple(names), fingerprint, when, fence, wanted_id)


class Intake:
    """A worker's side."""

    def __init__(self) -> None:
        self.materials: Materials = {}
        self._items: dict[int, Item] = {}
        self._generations: list[Generation] = []
        self._certificates: Certificates | None = None

    def calls(self) -> dict[str, Answerer]:
        return {
            "put_certificates": self._put,
            "show_certificates": self._show,
            "shown_certificates": self._shown,
        }

    def serve(self, certificates: Certificates) -> None:
        """From now on, with what has come already. Raises CertificateUnusable."""
        self._certificates = certificates
        self._apply(certificates)

    async def _put(self, pickled: bytes) -> None:
        # from our own control process, over a socket that nobody else has
        piece: list[tuple[Item, int]] = pickle.loads(pickled)  # noqa: S301
        self._items |= {number: item for item, number in piece}

    async def _shown(self) -> object:
        return [] if self._certificates is None else [plain_shown(each) for each in self._certificates]

    async def _show(self, numbers: list[int]) -> None:
        self._items = {number: self._items[number] for number in numbers}
        items = self._items.values()
        self._generations = [item for item in items if isinstance(item, Generation)]
        self.materials = dict(item for item in items if not isinstance(item, Generation))
        if self._certificates is not None:
            try:
                self._apply(self._certificates)
            except CertificateUnusable as error:
                raise LinkFault(str(error)) from error

    def _apply(self, certificates: Certificates) -> None:
        certificates.served.offer(self._generations)
        certificates.served.retain(each.wanted_id for each in self._generations)
        certificates.learn(self.materials)
