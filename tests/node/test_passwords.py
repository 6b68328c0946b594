"""Password hashes: vectors made by other programs, limits, and the promise that nothing else escapes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import hashschemes
from node.passwords import (
    CREATABLE_SCHEMES,
    BadHash,
    generate_password,
    hash_password,
    needs_upgrade,
    parse_hash,
    refusal,
    verify,
)

PASSWORD = b"correct horse"
UMLAUTS = "pässwörd €".encode()

# Made by `doveadm pw -s SCHEME -p PASSWORD` of Dovecot 2.3.19, unless the comment says otherwise.
VECTORS = (
    (
        "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$TfXZB8Lqh+o/ZpGbVEG0QQ"
        "$ehdIhx5D4WoGQ+5EAcoqL84IVm6vnpcGK0KgwwtNdIQ"
    ),
    (
        "{ARGON2I}$argon2i$v=19$m=32768,t=4,p=1$Nqphu7bdO74An6a1a9fSiw"
        "$Hl6OQ5wIMRifOFJMNLNRyGuon7sikxYTc35pBICJikA"
    ),
    "{BLF-CRYPT}$2y$05$28Sldnhj0or1uZHetNbuMOIzZ9KbfFeZd512f4J1P5klcgzBZ1oNC",
    "{BLF-CRYPT.B64}JDJ5JDA1JEZib1owRVp5ZHJNRHc3R21INUJoSS4za0tTUDJ2bWVCa2JNSUxRRERXQ0NMcGI1MjBneDJ1",
    "{CRYPT}$2y$05$m3c.jNpmPpfNAo2Z9AuOXuvJAoGQdOVRSpLow8zeUu8jrMT/clS0u",
    # crypt(3) of libxcrypt
    "$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
    "$2a$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
    "{SSHA512}eJf3h+dVtCA9NInZlPrT6WHH5KvY9dOuS9NrlofFbuH4mpqDAJJEY93ur2T+QQvuCFK80hjRxCjkhDKYWyohZrc8Vd4=",
    (
        "{SSHA512.HEX}b14d5c67e8162461586fe41c86294b5d9417fb80546b7fa577243ce12befac2b"
        "3947490126e517c30765f49c21ff52a3555c44c00d73ffe9253d90eb6bd94c1ab7c43809"
    ),
    (
        "{SSHA512.B64}ySHmEOeMwpk+gNBAi1Drri7JAgMes+iu8vwbyGR/ejRh764fn0I2/+mFuYcAquJCfHEuwPCA7bCr"
        "gVW0k9v4XBBLhzQ="
    ),
    "{SHA512}VraY3v7bWkNbY0r+MyC7rz/c2SC2xQOkRvx7endrKY1HnRumqLYXgI6wv1ec6aldZoNHvKtxSQhayTyyeZUZew==",
    (
        "{SHA512.HEX}56b698defedb5a435b634afe3320bbaf3fdcd920b6c503a446fc7b7a776b298d"
        "479d1ba6a8b617808eb0bf579ce9a95d668347bcab7149085ac93cb27995197b"
    ),
    "{SSHA256}lt+qzchc96MPwRj4CbbRaF8+fcHcyxOKafwO+ZxOepnUQsAq",
    "{SHA256}QQTTb42iwlQ0n4WDZ5Pr4CngyVcGOjTJHC6SAxh7VjE=",
    "{SSHA}AeZ+Fa5M/FbGZ11wbTw+R44rWqKl1RL1",
    "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A=",
    "{SHA1.HEX}2f9e53523b62abc141a2b4d6019d23cba835dbd0",
    "{sha1.hex}2F9E53523B62ABC141A2B4D6019D23CBA835DBD0",
    (
        "{SHA512-CRYPT}$6$S.gUWGcXW4V6BplO$glRkbj.xrGO0o73mkbcuDsWx5R6Id5.O6CsaVAtIpSO24fbWhvsNCUeKYmzy3XWj"
        "l3ggCmzJHWzlRJioJPuZd1"
    ),
    (
        "{SHA512-CRYPT}$6$rounds=1500$ysS0mRFA7mPw4qNS$pjBrl8akXVRlwIyRAeUh.gT74hLfn3WA1RPwvrnhoipHkbTpB0I2"
        "E1LWxKvtw.hhXJwPXdTeuAw38GldqPvd/0"
    ),
    # openssl passwd -6 -salt abcdefgh, openssl passwd -5 -salt abcdefgh
    ("$6$abcdefgh$yIZAF3gQPvtKZO/9qOJKffAKKbtS3ef3qmwyugk4uWVjX8YZf/GV3A8SkFxEPY0T56CcilGrHKLffBsp6dLMG."),
    "$5$abcdefgh$ruMep1ijHnJPZbETDNiumskxcX3kN4lzZd5VlsqE7eB",
    "{SHA256-CRYPT}$5$hdaVto8Z8zK16/5t$rVzg8RzPX.gxjZgKJXKTARnrHWy0Q5cL55RKB6N6pL9",
    "{PBKDF2}$1$07wfnCvxOQv.FiSl$5000$7a7fa70cab38b65dd0a4c1130d19d42a5d98c16d",
    "{PBKDF2}$1$zxgAHlO2YsXZwc86$1000$62184216ee329703c6756388712605f029b448f5",
)
UMLAUT_VECTORS = (
    "{BLF-CRYPT}$2y$05$1rPmQfHNK6BDirk/iTk.wubdo8rM57tasHXLvCY5m419rQORH7RJi",
    "{SSHA512}2NpNT+qVEE8LGVtszswHBih83hvipHmGrLFc0dN8KBLhkoZdF64k1zQ8XrKsK9M5OfT+pWnbRb+w1TfOyjGG/2dMEFQ=",
    (
        "{SHA512-CRYPT}$6$Ei6kEFG/5TO0Gk7E$F71iEk2xqJg1BM1xUAtEr4jlRTgl8S9puNs6nm/W4Oda2hA0I9xx1CwH7FNk1zmD"
        "E0cT/NyGu0dKuB0My3web."
    ),
    "{PBKDF2}$1$z3GpAxEebhXDNuKA$5000$d91d95e220100fe5cd61754c2ec68fe5a94effb5",
)

ARGON2_TAIL = "$TfXZB8Lqh+o/ZpGbVEG0QQ$ehdIhx5D4WoGQ+5EAcoqL84IVm6vnpcGK0KgwwtNdIQ"
MALFORMED = {
    "empty": "",
    "bare text": "correct horse",
    "unknown scheme": "{ROT13}pbeerpg ubefr",
    "unknown id": "$9$abc$def",
    "unclosed": "{SSHA512",
    "no data": "{SSHA512}",
    "unknown suffix": "{SSHA512.B32}AAAA",
    "wrong digest length": "{SHA512}AAAA",
    "salt missing": "{SSHA}L55TUjtiq8FBorTWAZ0jy6g129A=",
    "not base64": "{SSHA}!!!!",
    "argon2 truncated": "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$TfXZB8Lqh+o",
    "argon2 of another variant": "{ARGON2I}$argon2id$v=19$m=8192,t=1,p=1" + ARGON2_TAIL,
    "argon2 memory bomb": "$argon2id$v=19$m=99999999,t=1,p=1" + ARGON2_TAIL,
    "argon2 time bomb": "$argon2id$v=19$m=65536,t=9999,p=1" + ARGON2_TAIL,
    "argon2 too little memory for lanes": "$argon2id$v=19$m=8,t=1,p=8" + ARGON2_TAIL,
    "argon2 stray bits": "$argon2id$v=19$m=64,t=1,p=1$TfXZB8Lqh+o/ZpGbVEG0QR$ehdIhx5D4WoGQ+5EAcoqLQ",
    "bcrypt cost": "$2y$31$28Sldnhj0or1uZHetNbuMOIzZ9KbfFeZd512f4J1P5klcgzBZ1oNC",
    "bcrypt too short": "$2y$05$28Sldnhj0or1uZHetNbuMO",
    "sha-crypt rounds bomb": "$6$rounds=999999999$abcdefgh$" + "a" * 86,
    "sha-crypt rounds over the limit": "$6$rounds=1000001$abcdefgh$" + "a" * 86,
    "sha-crypt of another family": "{SHA256-CRYPT}$6$abcdefgh$" + "a" * 86,
    "sha-crypt checksum of another family": "$6$abcdefgh$" + "a" * 43,
    "pbkdf2 rounds bomb": "{PBKDF2}$1$salt$99999999$" + "0" * 40,
    "pbkdf2 not hex": "{PBKDF2}$1$salt$1000$" + "x" * 40,
    "too long": "{SSHA512}" + "A" * 2000,
    "lone surrogate": "{CRYPT}\ud800",
    "plain text": "{PLAIN}correct horse",
}


@pytest.mark.parametrize("stored", VECTORS, ids=lambda stored: stored[:20])
def test_hashes_of_other_programs_verify(stored: str) -> None:
    assert verify(stored, PASSWORD)
    assert not verify(stored, PASSWORD + b" ")
    assert not verify(stored, b"Correct horse")


@pytest.mark.parametrize("stored", UMLAUT_VECTORS, ids=lambda stored: stored[:20])
def test_passwords_are_bytes_as_sent(stored: str) -> None:
    assert verify(stored, UMLAUTS)
    assert not verify(stored, "pässwörd €".encode().replace(b"\xc3\xa4", b"a\xcc\x88"))  # NFD
    assert not verify(stored, "pässwörd".encode("latin-1"))


def test_bcrypt_ignores_what_lies_beyond_72_bytes_as_every_bcrypt_does() -> None:
    stored = "{BLF-CRYPT}$2y$05$33ZANRyCQH5JzY5kv5oN6OaE4LIGXfxAhLzsSaQze2aGjBc9y6qfS"  # of 80 times x
    assert verify(stored, b"x" * 80)
    assert verify(stored, b"x" * 72)
    assert not verify(stored, b"x" * 71)


@pytest.mark.parametrize("case", MALFORMED)
def test_unusable_hashes_say_why_without_showing_themselves(case: str) -> None:
    stored = MALFORMED[case]
    with pytest.raises(BadHash) as caught:
        verify(stored, PASSWORD)
    assert str(caught.value)
    assert not stored or stored not in str(caught.value)
    assert "correct horse" not in str(caught.value)


def test_plain_text_verifies_only_when_asked_for() -> None:
    assert verify("{PLAIN}correct horse", PASSWORD, allow_plain=True)
    assert verify("{CLEARTEXT}pässwörd €", UMLAUTS, allow_plain=True)
    assert not verify("{PLAIN}correct horse", b"wrong", allow_plain=True)


@pytest.mark.parametrize("password", [b"", b"a\0b", b"\0", b"x" * 1025])
def test_refused_passwords_match_nothing_and_are_never_hashed(password: bytes) -> None:
    assert refusal(password)
    stored = "{PLAIN}" + password.decode()
    assert not verify(stored, password, allow_plain=True)
    with pytest.raises(ValueError, match="password"):
        hash_password(password)


def test_a_password_of_1024_bytes_is_taken() -> None:
    assert refusal(b"x" * 1024) is None
    assert verify(hash_password(b"x" * 1024, "SSHA512"), b"x" * 1024)


@pytest.mark.parametrize("scheme", CREATABLE_SCHEMES)
def test_new_hashes_verify_are_salted_and_name_their_scheme(scheme: str) -> None:
    first, second = hash_password(UMLAUTS, scheme), hash_password(UMLAUTS, scheme)
    assert first != second
    assert first.startswith(f"{{{scheme}}}")
    assert verify(first, UMLAUTS)
    assert not verify(first, PASSWORD)


def test_the_default_profile() -> None:
    assert hash_password(PASSWORD).startswith("{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("scheme", ["MD5", "CRYPT", "PLAIN", "ARGON2I", ""])
def test_weak_or_unknown_schemes_are_not_created(scheme: str) -> None:
    with pytest.raises(ValueError, match="cannot make"):
        hash_password(PASSWORD, scheme)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1" + ARGON2_TAIL, False),
        ("$argon2id$v=19$m=65536,t=3,p=4" + ARGON2_TAIL, False),
        ("{CRYPT}$argon2id$v=19$m=19456,t=2,p=1" + ARGON2_TAIL, False),
        ("$argon2id$v=19$m=19455,t=2,p=1" + ARGON2_TAIL, True),
        ("$argon2id$v=19$m=65536,t=1,p=1" + ARGON2_TAIL, True),
        ("{ARGON2I}$argon2i$v=19$m=65536,t=3,p=1" + ARGON2_TAIL, True),
        (VECTORS[2], True),
        ("{SSHA}AeZ+Fa5M/FbGZ11wbTw+R44rWqKl1RL1", True),
    ],
)
def test_needs_upgrade(stored: str, expected: bool) -> None:
    assert needs_upgrade(stored) is expected


def test_a_parsed_hash_does_not_show_itself() -> None:
    assert "AeZ" not in repr(parse_hash("{SSHA}AeZ+Fa5M/FbGZ11wbTw+R44rWqKl1RL1"))


def test_out_of_memory_is_not_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_args: object) -> bool:
        raise hashschemes.VerificationError("Memory allocation error")

    monkeypatch.setattr(hashschemes, "verify_secret", no_memory)
    with pytest.raises(MemoryError):
        verify(VECTORS[0], PASSWORD)


def test_generated_passwords_differ_and_are_typeable() -> None:
    made = {generate_password() for _ in range(50)}
    assert len(made) == 50
    assert all(len(text) == 23 and text.isascii() and not set(text) & set("lo01 ") for text in made)


HASH_LIKE = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")),
    st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.tuples(
        st.sampled_from([*hashschemes.SCHEMES, "NONE"]),
        st.sampled_from(["", ".HEX", ".B64", ".BASE64", ".x"]),
        st.text("$=,.0123456789abcdefABCDEF+/{}", max_size=120),
    ).map(lambda parts: f"{{{parts[0]}{parts[1]}}}{parts[2]}"),
    # A good hash with a piece replaced; cheap ones only, to stay fast.
    st.tuples(st.sampled_from(VECTORS[2:17]), st.integers(0, 100), st.text(max_size=4)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
    ),
)


@settings(max_examples=200, deadline=None)
@given(stored=HASH_LIKE, password=st.binary(max_size=40))
def test_whatever_is_stored_nothing_but_bad_hash_escapes(stored: str, password: bytes) -> None:
    """Invariant: any stored text either gives a verdict or raises BadHash."""
    try:
        assert verify(stored, password) in (True, False)
        needs_upgrade(stored)
    except BadHash:
        pass


def test_the_guide_lists_every_scheme() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "accounts.md").read_text()
    wanted = set(hashschemes.SCHEMES) - hashschemes.PLAIN_SCHEMES
    assert set(re.findall(r"`\{([A-Z0-9-]+)\}`", guide)) == wanted
    assert {f"${ident}$" for ident in hashschemes.BY_IDENT} == set(re.findall(r"`(\$[a-z0-9]+\$)`", guide))
