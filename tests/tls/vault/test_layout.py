from __future__ import annotations

import pytest

from tls.vault.layout import (
    Place,
    ca_id,
    certificate_key,
    challenge_key,
    digest,
    is_token,
    locate,
    numbered_key,
    places,
    prefix,
)
from tls.vault.sealing import Kind, Label

CA, WANTED = ca_id("https://ca.test/dir"), "fedcba9876543210"


def test_keys_are_these_for_ever() -> None:
    assert CA == "3f0f069f145c3cbd"
    issued = certificate_key(Label(Kind.CERTIFICATE, CA, WANTED, 7), b"sealed")
    assert issued == f"tls/v1/{CA}/certs/{WANTED}/000000000007-{digest(b'sealed')}.bin"
    assert numbered_key(Label(Kind.ACCOUNT, CA, "", 7), []) == f"tls/v1/{CA}/account/000000000007.bin"
    order = numbered_key(Label(Kind.ORDER, CA, WANTED, 7), [])
    assert order == f"tls/v1/{CA}/orders/{WANTED}/000000000007.bin"
    assert challenge_key("a" * 22) == f"tls/v1/challenges/{'a' * 22}"


def test_what_stands_at_a_key() -> None:
    issued = certificate_key(Label(Kind.CERTIFICATE, CA, WANTED, 7), b"sealed")
    order = numbered_key(Label(Kind.ORDER, CA, WANTED, 7), [])
    for key, kind in ((issued, Kind.CERTIFICATE), (order, Kind.ORDER)):
        found = locate(key)
        assert found is not None
        assert found[:2] == (kind, WANTED)
        assert (found[2].key, found[2].fence, found[2].ca_id) == (key, 7, CA)
    for strange in (
        numbered_key(Label(Kind.ACCOUNT, CA, "", 7), []),
        challenge_key("a" * 22),
        f"{issued}/more",
        issued.replace("certs", "other"),
        issued.replace(WANTED, "f"),
        f"x{issued}",
        "",
    ):
        assert locate(strange) is None


def test_ids_of_cas_are_apart() -> None:
    found = {ca_id(url) for url in ("https://ca.test/dir", "https://ca.test/dir/", "https://ca.test/DIR")}
    assert len(found) == 3
    assert all(len(each) == 16 for each in found)


def test_a_second_object_under_one_fence_has_a_name_of_its_own() -> None:
    label = Label(Kind.ORDER, CA, WANTED, 7)
    keys: list[str] = []
    for _ in range(12):
        keys.append(numbered_key(label, places(Kind.ORDER, CA, WANTED, keys)))
    assert keys[1].endswith("/000000000007-2.bin")
    assert [place.key for place in places(Kind.ORDER, CA, WANTED, sorted(keys))] == keys[::-1]
    other = Place(7, 1, "elsewhere", "another CA")
    assert numbered_key(label, [other]).endswith("/000000000007.bin")


def test_the_newest_comes_first_and_strangers_are_left_out() -> None:
    start = prefix(Kind.CERTIFICATE, CA, WANTED)
    good = [f"{start}{fence:012}-{'0' * 16}.bin" for fence in (1, 9, 10, 999_999_999_999)]
    strangers = [
        f"{start}x.bin",
        f"{start}000000000007.bin",
        f"{start}7-{'0' * 16}.bin",
        f"{start}000000000007-{'0' * 16}.bin.tmp",
        f"{start}deeper/000000000007-{'0' * 16}.bin",
        f"{start}٠٠٠٠٠٠٠٠٠٠٠٧-{'0' * 16}.bin",
        "",
        "000000000007-0000000000000000.bin",
    ]
    found = places(Kind.CERTIFICATE, CA, WANTED, strangers[:4] + good + strangers[4:])
    assert [place.key for place in found] == good[::-1]
    assert [place.fence for place in found] == [999_999_999_999, 10, 9, 1]


@pytest.mark.parametrize("fence", [-1, 10**12])
def test_fences_that_have_no_place(fence: int) -> None:
    with pytest.raises(ValueError, match="12 digits"):
        certificate_key(Label(Kind.CERTIFICATE, CA, WANTED, fence), b"")


@pytest.mark.parametrize("subject", ["", "..", "FEDCBA9876543210", "../../../../x", "fedcba987654321"])
def test_subjects_that_are_no_id(subject: str) -> None:
    with pytest.raises(ValueError, match="not the id"):
        prefix(Kind.CERTIFICATE, CA, subject)


@pytest.mark.parametrize("token", ["", "a" * 21, "a" * 129, "../" + "a" * 30, "a" * 22 + "\n", "ä" * 22])
def test_tokens_that_are_none(token: str) -> None:
    assert not is_token(token)
    with pytest.raises(ValueError, match="not a challenge's token"):
        challenge_key(token)
