"""Certificates from the control process to workers, over real links."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from node import certificatelink
from node.certificatelink import Courier, Intake, shown_from
from node.certificates import Certificates
from node.config import Config, Server
from node.config.acme import LetsEncrypt
from node.config.services import Tls
from node.link import Link, LinkFault
from tests.support.generations import generation
from tls.ports import Generation
from tls.selfsigned import self_signed

NOW = datetime.now(UTC)
SPAN = {"begins": NOW - timedelta(days=1), "ends": NOW + timedelta(days=89)}
PLAIN = Server(name="imap", type="imap")
MAIL = generation("mail.example.com", **SPAN)
IMAP = generation("imap.example.com", **SPAN)
SAID_WITHIN_S = 60.0  # how fast it is, the bench tells


def issued_and_files(folder: Path) -> Config:
    """One server has a pair of its own, the other shows what is issued."""
    write_pair(folder)
    own = Server(
        name="own", type="imap", tls_cert_file=str(folder / "c.pem"), tls_key_file=str(folder / "k.pem")
    )
    acme = LetsEncrypt(domains=("mail.example.com", "imap.example.com"))
    return Config(tls=Tls(enabled=True, provider="letsencrypt", letsencrypt=acme), servers=(PLAIN, own))


def write_pair(folder: Path) -> str:
    """The leaf as PEM."""
    chain, key = self_signed(["localhost"], NOW)
    (folder / "c.pem").write_bytes(chain)
    (folder / "k.pem").write_bytes(key)
    return chain.decode()


class Worker:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.intake = Intake()
        self.certificates: Certificates | None = None
        self.asked: list[tuple[str, list[Any]]] = []

    def calls(self) -> dict[str, Any]:
        return {name: self._noted(name, call) for name, call in self.intake.calls().items()}

    def start(self) -> Certificates:
        made = self.certificates = Certificates(self.config, self.intake.materials)
        self.intake.serve(made)
        for server in self.config.servers:
            made.of(server)
        return made

    def fingerprints(self) -> set[str]:
        assert self.certificates is not None
        return {each.fingerprint for each in self.certificates}

    def _noted(self, name: str, call: Any) -> Any:
        async def noting(*arguments: Any) -> Any:
            self.asked.append((name, list(arguments)))
            return await call(*arguments)

        return noting


@asynccontextmanager
async def linked(*workers: Worker) -> AsyncIterator[list[Link]]:
    """The control process's ends."""
    loop, ours, made = asyncio.get_running_loop(), [], []
    for worker in workers:
        one, other = socket.socketpair()
        ours.append(Link({}, {}))
        for link, sock in ((ours[-1], one), (Link(worker.calls(), {}), other)):
            sock.setblocking(False)
            await loop.create_unix_connection(lambda link=link: link, sock=sock)
            made.append(link)
    try:
        yield ours
    finally:
        for link in made:
            link.end("over")


def control(config: Config) -> tuple[Certificates, Courier]:
    certificates = Certificates(config)
    courier = Courier(certificates)
    certificates.changed = courier.changed
    for server in config.servers:
        certificates.of(server)
    return certificates, courier


async def same(certificates: Certificates, *workers: Worker) -> None:
    wanted = {each.fingerprint for each in certificates}
    async with asyncio.timeout(SAID_WITHIN_S):
        while any(worker.fingerprints() != wanted for worker in workers):
            await asyncio.sleep(0.001)


async def test_a_new_worker_has_all_before_it_starts_and_reads_no_files(tmp_path: Path) -> None:
    config = issued_and_files(tmp_path)
    certificates, courier = control(config)
    certificates.offer([MAIL, IMAP])
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).unlink()
    worker = Worker(config)
    async with linked(worker) as [link]:
        await courier.bring(link)
        worker.start()
        assert worker.fingerprints() == {each.fingerprint for each in certificates}
        assert len(worker.fingerprints()) == 3
        plain = await link.call("shown_certificates")
        assert [shown_from(each).fence for each in plain] == [0, 1, 1]
        assert {shown_from(each) for each in plain} == set(certificates)


def test_certificates_that_begin_with_the_same_name_are_told_apart(tmp_path: Path) -> None:
    """Their expiries would be added up in a scrape."""
    certificates, _ = control(issued_and_files(tmp_path))
    certificates.offer([MAIL, generation("mail.example.com", "other.example.com", wanted_id="more", **SPAN)])
    labels = [each.label for each in certificates]
    assert len(set(labels)) == len(labels) == 3


async def test_swaps_reach_all_workers_at_once_and_only_news_are_sent(tmp_path: Path) -> None:
    config = issued_and_files(tmp_path)
    certificates, courier = control(config)
    certificates.offer([MAIL, IMAP])
    workers = [Worker(config), Worker(config)]
    async with linked(*workers) as links:
        for link, worker in zip(links, workers, strict=True):
            await courier.bring(link)
            worker.start()
        following = [asyncio.create_task(courier.follow(link)) for link in links]
        await asyncio.sleep(0)
        for fence in range(2, 12):
            certificates.offer([generation("mail.example.com", fence=fence, **SPAN)])
            await same(certificates, *workers)
        write_pair(tmp_path)
        certificates.refresh()
        await same(certificates, *workers)
        certificates.retain([IMAP.wanted_id])
        await same(certificates, *workers)
        puts = [pickle.loads(arguments[0]) for name, arguments in workers[0].asked if "put" in name]
        assert [len(piece) for piece in puts] == [3] + [1] * 11
        assert len(workers[0].intake._items) == 2  # what is not shown any more is not kept
        for link in links:
            link.end("gone")
        await asyncio.gather(*following)


async def test_bad_ones_change_nothing_anywhere(tmp_path: Path) -> None:
    config = issued_and_files(tmp_path)
    certificates, courier = control(config)
    certificates.offer([MAIL])
    worker = Worker(config)
    async with linked(worker) as [link]:
        await courier.bring(link)
        worker.start()
        before, asked = worker.fingerprints(), len(worker.asked)
        bad = Generation(MAIL.wanted_id, 2, MAIL.chain_pem, IMAP.key_pem, "", NOW, MAIL.names)
        assert MAIL.wanted_id in certificates.offer([bad])
        (tmp_path / "k.pem").write_bytes(IMAP.key_pem)
        certificates.refresh()
        await courier.bring(link)
        assert (worker.fingerprints(), len(worker.asked)) == (before, asked)


async def test_many_are_sent_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificatelink, "PIECE_BYTES", 4000)
    config = issued_and_files(tmp_path)
    certificates, courier = control(config)
    certificates.offer([generation(f"m{n}.example.com", **SPAN) for n in range(30)])
    worker = Worker(config)
    async with linked(worker) as [link]:
        await courier.bring(link)
        assert len([name for name, _ in worker.asked if "put" in name]) > 5
        worker.start()
        assert len(worker.fingerprints()) == 31


async def test_a_worker_that_cannot_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(certificatelink, "RETRY_EVERY_S", 0.01)
    config = issued_and_files(tmp_path)
    certificates, courier = control(config)
    worker = Worker(config)
    show, failures = worker.intake._show, [LinkFault("no memory")] * 4

    async def fail_first(numbers: list[int]) -> None:
        if failures:
            raise failures.pop()
        await show(numbers)

    monkeypatch.setattr(worker.intake, "_show", fail_first)
    async with linked(worker) as [link]:
        with pytest.raises(LinkFault, match="no memory"):
            await courier.bring(link)
        following = asyncio.create_task(courier.follow(link))
        await asyncio.sleep(0)
        worker.start()
        certificates.offer([MAIL])
        await same(certificates, worker)
        assert caplog.text.count("does not take the new certificates") == 1
        following.cancel()


async def test_no_key_is_in_any_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = issued_and_files(tmp_path)
    certificates, courier = control(config)
    worker = Worker(config)
    async with linked(worker) as [link]:
        certificates.offer([MAIL, generation("imap.example.com", ends=NOW, begins=NOW - timedelta(days=2))])
        await courier.bring(link)
        worker.start()
    for line in MAIL.key_pem.decode().splitlines()[1:-1]:
        assert line not in caplog.text
    assert ssl.PEM_HEADER not in caplog.text
