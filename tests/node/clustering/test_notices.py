"""Changes of mailboxes reach the nodes with sessions of the account, once, and no others."""

from __future__ import annotations

from node.clustering.directory import FRESH_S, LINGER_S
from node.clustering.notices import GATHER_S, MAX_WAITING
from protocols.ports import MailboxChanged
from protocols.settings import settings_changed
from storage.model import AccountId, MailboxId, ModSeq

from .cluster import Nodes


def change(account: int, mailbox: int = 1, modseq: int = 1) -> MailboxChanged:
    return MailboxChanged(AccountId(account), MailboxId(mailbox), ModSeq(modseq))


def test_nodes_with_sessions_of_the_account_hear(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    second.log_in("1", 7)
    third.log_in("2", 8)
    first.feed.publish(change(7))
    nodes.pass_by(GATHER_S)
    assert second.feed.published == [change(7)]
    assert third.feed.published == []


def test_what_was_heard_is_not_told_on(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    for member in (first, second, third):
        member.log_in(member.gossip.name, 7)
    first.feed.publish(change(7))
    for _ in range(3):
        nodes.pass_by(GATHER_S)
    assert second.feed.published == third.feed.published == [change(7)]
    assert first.feed.published == []


def test_a_burst_goes_together_with_the_latest_of_each_mailbox(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    second.log_in("1", 7)
    nodes.pass_by(GATHER_S)
    before = nodes.cluster.messages
    for modseq in range(1, 100):
        first.feed.publish(change(7, mailbox=modseq % 3, modseq=modseq))
    nodes.pass_by(GATHER_S)
    published = sorted(second.feed.published, key=lambda each: each.mailbox_id)
    assert published == [change(7, 0, 99), change(7, 1, 97), change(7, 2, 98)]
    assert nodes.cluster.messages == before + 1


def test_waiting_changes_are_bounded(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    second.log_in("1", 7)
    for mailbox in range(MAX_WAITING + 5):
        first.feed.publish(change(7, mailbox))
    assert first.clustering.dropped == 5
    nodes.pass_by(GATHER_S)
    assert len(second.feed.published) == MAX_WAITING


def test_an_account_that_comes_back_at_once_has_not_left_the_directory(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    before = nodes.cluster.messages
    for number in range(10):
        second.sessions.closed(second.log_in(str(number), 7))
    assert nodes.cluster.messages == before + 2
    nodes.pass_by(GATHER_S)
    nodes.pass_by(LINGER_S)
    first.feed.publish(change(7))
    nodes.pass_by(GATHER_S)
    assert second.feed.published == []


def test_mail_that_comes_before_the_entry_of_the_session_is_told_of(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    second.gossip.put = lambda *_: None  # type: ignore[method-assign]
    second.log_in("1", 7)
    nodes.pass_by(GATHER_S)
    first.feed.publish(change(7))
    nodes.pass_by(GATHER_S)
    assert second.feed.published == [change(7)]
    nodes.pass_by(FRESH_S)
    first.feed.publish(change(7))
    nodes.pass_by(GATHER_S)
    assert len(second.feed.published) == 1


def test_sessions_from_trusted_addresses_hear_too(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    second.log_in("1", 7, "")  # a Unix socket: in no count
    first.feed.publish(change(7))
    nodes.pass_by(GATHER_S)
    assert second.feed.published == [change(7)]


def test_pop3_sessions_do_not_listen(nodes: Nodes) -> None:
    _, second, _ = nodes.three()
    second.open("1", protocol="pop3")
    assert len(second.clustering.directory) == 0


def test_the_directory_is_forgotten_with_its_node(nodes: Nodes) -> None:
    first, second, _ = nodes.three()
    second.log_in("1", 7)
    assert first.clustering.directory.known == 1
    nodes.cluster.kill("b")
    assert first.clustering.directory.known == 0


def test_a_notice_of_another_form_is_counted(nodes: Nodes) -> None:
    _, second, _ = nodes.three()
    second.clustering.notices.heard(b"x" * 25)
    assert second.clustering.unreadable == 1


def test_settings_of_an_account_go_to_all_nodes(nodes: Nodes) -> None:
    first, second, third = nodes.three()
    first.feed.publish(settings_changed(AccountId(7)))
    nodes.pass_by(GATHER_S)
    assert second.feed.published == third.feed.published == [settings_changed(AccountId(7))]
