from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tls.challenges import (
    KEPT_S,
    MAX_KEPT,
    PREFIX,
    STORE_BURST,
    Answer,
    Ask,
    Challenges,
    Miss,
    Source,
)

HOST = "mail.example.com"
TOKEN = "DGyRejmCefe7v4NfDGDKfA-_x"
THUMBPRINT = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
TEXT = f"{TOKEN}.{THUMBPRINT}"
PATH = PREFIX + TOKEN


def challenges(thumbprint: str = "") -> Challenges:
    return Challenges(frozenset({HOST}), thumbprint)


def test_memory_comes_first_and_forgets() -> None:
    answering = challenges(THUMBPRINT)
    answering.expect(9e9)
    assert answering.put(TOKEN, TEXT, 10.0)
    for _ in range(3):  # an authority asks from several places
        assert answering.answer(HOST, PATH, 11.0) == Answer(TEXT, Source.MEMORY)
    assert answering.answer(HOST, PATH, 10.0 + KEPT_S) == Ask(TOKEN)
    answering.drop(TOKEN)
    answering.drop(TOKEN)
    assert answering.counts == {"memory": 3}


def test_the_store_is_asked_only_while_an_order_is_under_way() -> None:
    answering = challenges()
    assert answering.answer(HOST, PATH, 1.0) is Miss.UNKNOWN
    answering.expect(until=5.0)
    assert answering.answer(HOST, PATH, 4.0) == Ask(TOKEN)
    assert answering.found(TOKEN, TEXT, 4.0) == Answer(TEXT, Source.STORE)
    assert answering.answer(HOST, PATH, 4.5) == Answer(TEXT, Source.MEMORY)  # kept
    assert answering.answer(HOST, PATH + "x", 5.0) is Miss.UNKNOWN
    assert answering.counts == {"unknown_token": 2, "store": 1, "memory": 1}


@pytest.mark.parametrize(
    "said", [None, "", "nonsense", f"{TOKEN}x.{THUMBPRINT}", f"{TEXT}\r\nX: y", TEXT * 9]
)
def test_what_the_store_does_not_know_or_says_wrongly(said: str | None) -> None:
    assert challenges().found(TOKEN, said, 1.0) is Miss.UNKNOWN
    assert challenges(THUMBPRINT).found(TOKEN, said, 1.0) == Answer(TEXT, Source.STATELESS)


def test_lookups_are_bounded() -> None:
    answering = challenges()
    answering.expect(9e9)
    asked = [answering.answer(HOST, f"{PREFIX}{n:030}", 100.0) for n in range(1000)]
    assert sum(isinstance(each, Ask) for each in asked) == STORE_BURST
    later = [answering.answer(HOST, f"{PREFIX}{n:031}", 101.0) for n in range(1000)]
    assert 1 <= sum(isinstance(each, Ask) for each in later) <= 5


def test_memory_is_bounded() -> None:
    answering = challenges()
    for number in range(MAX_KEPT + 10):
        token = f"{number:030}"
        assert answering.put(token, f"{token}.{THUMBPRINT}", 1.0)
    assert answering.answer(HOST, f"{PREFIX}{9:030}", 2.0) is Miss.UNKNOWN
    assert isinstance(answering.answer(HOST, f"{PREFIX}{10:030}", 2.0), Answer)


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        (f"{HOST}:80", PATH, None),
        (f"{HOST}:5002", PATH, None),
        ("MAIL.Example.com.", PATH, None),
        ("other.example", PATH, Miss.OTHER_HOST),
        ("", PATH, Miss.OTHER_HOST),
        ("127.0.0.1", PATH, Miss.OTHER_HOST),
        ("[::1]:80", PATH, Miss.OTHER_HOST),
        (f"{HOST}.evil.example", PATH, Miss.OTHER_HOST),
        (HOST, "/", Miss.NOT_A_CHALLENGE),
        (HOST, f"//{PATH}", Miss.NOT_A_CHALLENGE),
        (HOST, f"http://{HOST}{PATH}", Miss.NOT_A_CHALLENGE),
        (HOST, PREFIX, Miss.MALFORMED),
        (HOST, PREFIX + "short", Miss.MALFORMED),
        (HOST, PREFIX + "a" * 129, Miss.MALFORMED),
        (HOST, PREFIX + "../" * 10 + "etc", Miss.MALFORMED),
        (HOST, PREFIX + "%2e%2e%2f" + "a" * 22, Miss.MALFORMED),
        (HOST, PATH + "/", Miss.MALFORMED),
        (HOST, PATH + "\n", Miss.MALFORMED),
        (HOST, PREFIX + "ä" * 22, Miss.MALFORMED),
    ],
)
def test_hosts_and_paths(host: str, path: str, expected: Miss | None) -> None:
    answering = challenges(THUMBPRINT)
    answering.expect(9e9)
    answering.put(TOKEN, TEXT, 0.0)
    found = answering.answer(host, path, 1.0)
    assert found == (expected or Answer(TEXT, Source.MEMORY))


@given(st.text(max_size=300), st.text(max_size=80))
@settings(max_examples=200)
def test_no_stranger_gets_us_to_look_anything_up(path: str, host: str) -> None:
    """Any path under any host that is not ours: no lookup, and no answer."""
    answering = challenges(THUMBPRINT)
    answering.expect(9e9)
    if not answering.is_for_us(host):
        assert isinstance(answering.answer(host, path, 1.0), Miss)
        assert isinstance(answering.answer(host, PREFIX + path, 1.0), Miss)


def test_only_what_belongs_to_a_token_is_kept() -> None:
    answering = challenges()
    assert not answering.put("short", f"short.{THUMBPRINT}", 0.0)
    assert not answering.put(TOKEN, f"other.{THUMBPRINT}", 0.0)
    assert THUMBPRINT not in repr(answering)
