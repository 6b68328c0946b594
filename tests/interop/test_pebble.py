"""The test CA and its stub themselves: what other tests build on."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cryptography import x509

from tests.support.acmefront import Window
from tests.support.pebble import Pebble, Rule, pebble, require_pebble

__all__ = ["pebble"]


@pytest.fixture
def ca(pebble: Pebble) -> Iterator[Pebble]:
    pebble.front.clear()
    yield pebble
    pebble.front.clear()


def get(ca: Pebble, url: str, timeout_s: float = 5.0) -> bytes:
    trust = ssl.create_default_context(cafile=ca.ca_file)
    with urllib.request.urlopen(url, timeout=timeout_s, context=trust) as answer:
        content: bytes = answer.read()
        return content


def test_the_links_of_the_directory_lead_through_the_stub(ca: Pebble) -> None:
    directory = json.loads(get(ca, ca.directory))
    assert directory["newOrder"] == ca.directory.replace("/dir", "/order-plz")
    assert "renewalInfo" not in directory
    assert ca.front.count("directory") == 1
    assert x509.load_pem_x509_certificate(ca.root_pem()).issuer


def test_profiles_and_windows_appear_in_the_directory(ca: Pebble) -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)
    ca.front.profiles = {"short": "six days"}
    ca.front.window = Window(when, when, retry_after="77")
    directory = json.loads(get(ca, ca.directory))
    assert directory["meta"]["profiles"] == {"short": "six days"}
    window = json.loads(get(ca, directory["renewalInfo"] + "/id"))
    assert window["suggestedWindow"]["start"] == "2030-01-01T00:00:00Z"


def test_rules_answer_cut_and_skip(ca: Pebble) -> None:
    ca.front.add(Rule("directory", status=429, skip=1, times=1, headers={"Retry-After": "7"}))
    ca.front.add(Rule("directory", cut=True, skip=1, times=1))
    get(ca, ca.directory)
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(ca, ca.directory)
    assert refused.value.headers["Retry-After"] == "7"
    with pytest.raises((OSError, ConnectionError)):
        get(ca, ca.directory)
    get(ca, ca.directory)
    assert ca.front.count("directory") == 2
    assert len(ca.front.requests("directory")) == 4


def test_a_stopped_and_a_hanging_ca() -> None:
    require_pebble()
    with Pebble() as ca:
        ca.hang()
        with pytest.raises(OSError):
            get(ca, ca.direct_directory, timeout_s=0.3)
        ca.go_on()
        get(ca, ca.direct_directory)
        root = ca.root_pem()
        ca.stop()
        with pytest.raises(OSError):
            get(ca, ca.direct_directory)
        ca.start()
        assert ca.root_pem() != root
