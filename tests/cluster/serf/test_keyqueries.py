from __future__ import annotations

import base64

import msgpack
import pytest

from cluster.effects import KeysChanged, QueryAnswered
from cluster.errors import PacketRejected
from cluster.keyring import KeyRing
from cluster.serf import keyqueries
from cluster.serf.keyqueries import INSTALL, LIST, REMOVE, USE, KeyAnswer

from .nodes import KEY, Node, at, carry, network

NEW = bytes(range(1, 33))


def asked(nodes: list[Node], name: str, key: bytes = b"") -> dict[str, KeyAnswer]:
    nodes[0].serf.ask(name, keyqueries.encode_key_request(key), at(0))
    carry(nodes)
    told = nodes[0].told(QueryAnswered)
    return {answer.node: keyqueries.decode_key_answer(answer.payload or b"") for answer in told}


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_a_rotation_from_one_member() -> None:
    nodes = network(3)
    for name in (INSTALL, USE):
        assert asked(nodes, name, NEW) == {node.name: KeyAnswer(True) for node in nodes}
    assert asked(nodes, REMOVE, KEY) == {node.name: KeyAnswer(True) for node in nodes}
    listed = asked(nodes, LIST)
    assert listed == {node.name: KeyAnswer(True, "", (text(NEW),), text(NEW)) for node in nodes}
    for node in nodes:
        assert [effect.keys for effect in node.told(KeysChanged)] == [(KEY, NEW), (NEW, KEY), (NEW,)]


def test_steps_may_be_repeated() -> None:
    nodes = network(1)
    asked(nodes, INSTALL, NEW)
    assert asked(nodes, INSTALL, NEW) == {"n1": KeyAnswer(True)}
    assert len(nodes[0].told(KeysChanged)) == 1


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        (REMOVE, KEY, "primary"),
        (USE, NEW, "not in the ring"),
        (INSTALL, b"short", "bytes"),
        (INSTALL, b"", "bytes"),
    ],
)
def test_what_would_break_a_node_is_refused(name: str, key: bytes, message: str) -> None:
    nodes = network(1)
    answer = asked(nodes, name, key)["n1"]
    assert not answer.is_done
    assert message in answer.message
    assert nodes[0].ring.keys == (KEY,)
    assert nodes[0].told(KeysChanged) == []


def test_the_number_of_keys_is_bounded() -> None:
    ring = KeyRing([bytes((n,)) * 32 for n in range(8)])
    payload = keyqueries.encode_key_request(NEW)
    answer = keyqueries.answer_key_query(INSTALL, payload, ring, is_allowed=True)
    assert (answer.is_done, answer.message) == (False, "there are 8 keys already")


@pytest.mark.parametrize("name", keyqueries.KEY_QUERIES)
def test_not_allowed_says_so_and_tells_no_key(name: str) -> None:
    node = Node(1, allows_remote_keys=False)
    answer = asked([node], name, NEW)["n1"]
    assert answer == KeyAnswer(False, keyqueries.REFUSAL)
    assert node.ring.keys == (KEY,)


def test_answers_of_older_agents_have_no_primary_key() -> None:
    raw = b"\x08" + msgpack.packb({"Result": True, "Message": "", "Keys": None}, use_bin_type=False)
    assert keyqueries.decode_key_answer(raw) == KeyAnswer(True)


@pytest.mark.parametrize("raw", [b"", b"\x07\x80", b"\x08", b"\x08\xc0", b"\x08\x81\xa4Keys\x05"])
def test_damaged_answers_are_rejected(raw: bytes) -> None:
    with pytest.raises(PacketRejected):
        keyqueries.decode_key_answer(raw)


def test_keys_are_in_no_representation() -> None:
    assert text(KEY) not in repr(KeyAnswer(True, "", (text(KEY),), text(KEY)))
