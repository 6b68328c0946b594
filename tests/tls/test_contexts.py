from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tls.bundle import parse_bundle
from tls.contexts import FileCertificate
from tls.errors import CertificateUnusable
from tls.selfsigned import LIFETIME, self_signed
from tls.sources import outer_context
from tls.unserved import Unserved

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def write_pair(directory: Path, name: str = "mail.example.test", now: datetime = NOW) -> tuple[Path, Path]:
    cert, key = self_signed([name, "127.0.0.1"], now)
    (directory / "cert.pem").write_bytes(cert)
    (directory / "key.pem").write_bytes(key)
    return directory / "cert.pem", directory / "key.pem"


def unverifying() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def served_name(
    context: ssl.SSLContext, ask: str | None = "mail.example.test", client: ssl.SSLContext | None = None
) -> bytes:
    """The leaf that a handshake through memory buffers is given, as DER."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = (client or unverifying()).wrap_bio(to_client, to_server, server_hostname=ask)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (asking, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                if side is asking:
                    raise  # what the server thinks of it is told to the client
    leaf = asking.getpeercert(binary_form=True)
    assert leaf is not None
    return leaf


def der(cert_file: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(cert_file.read_text())


def test_bundle_facts() -> None:
    cert, key = self_signed(["mail.example.test", "127.0.0.1"], NOW)
    bundle = parse_bundle(cert, key, "here")
    assert bundle.names == ("mail.example.test", "127.0.0.1")
    assert bundle.refusal(NOW) is None
    assert "expired" in (bundle.refusal(NOW + LIFETIME + timedelta(days=1)) or "")
    assert "not valid before" in (bundle.refusal(NOW - timedelta(days=30)) or "")


@pytest.mark.parametrize("ask", ["mail.example.test", None])
def test_changed_files_reach_the_next_handshake(tmp_path: Path, ask: str | None) -> None:
    pair = write_pair(tmp_path)
    certificate = FileCertificate(*pair, now=lambda: NOW)
    outer = outer_context(certificate)
    assert served_name(outer, ask) == der(pair[0])
    first = der(pair[0])
    write_pair(tmp_path)
    assert certificate.refresh() is True
    assert der(pair[0]) != first
    assert served_name(outer, ask) == der(pair[0])
    assert certificate.refresh() is False


def test_a_pair_that_does_not_match_never_replaces_a_working_one(tmp_path: Path) -> None:
    cert_file, key_file = write_pair(tmp_path)
    certificate = FileCertificate(cert_file, key_file, now=lambda: NOW)
    working = der(cert_file)
    other_cert, other_key = self_signed(["mail.example.test"], NOW)
    cert_file.write_bytes(other_cert)
    assert certificate.refresh() is False
    assert served_name(certificate.context) == working
    key_file.write_bytes(other_key)
    assert certificate.refresh() is True


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_broken_files_keep_the_old_certificate(tmp_path: Path, content: bytes) -> None:
    cert_file, key_file = write_pair(tmp_path)
    certificate = FileCertificate(cert_file, key_file, now=lambda: NOW)
    working = der(cert_file)
    cert_file.write_bytes(content)
    assert certificate.refresh() is False
    assert served_name(certificate.context) == working
    cert_file.unlink()
    assert certificate.refresh() is False
    write_pair(tmp_path)
    assert certificate.refresh() is True


def test_expired_replacement_is_refused_and_expired_start_is_served_with_an_alert(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = write_pair(tmp_path)
    late = NOW + LIFETIME + timedelta(days=1)
    with caplog.at_level(logging.CRITICAL, "sora.tls"):
        certificate = FileCertificate(*pair, now=lambda: late)
    assert "expired" in caplog.text
    old = der(pair[0])
    write_pair(tmp_path)
    assert certificate.refresh() is False
    assert served_name(certificate.context) == old


def test_an_early_pair_of_files_is_taken_when_its_time_has_come(tmp_path: Path) -> None:
    clock = [NOW]
    pair = write_pair(tmp_path)
    certificate = FileCertificate(*pair, now=lambda: clock[0])
    write_pair(tmp_path, now=NOW + timedelta(days=3))  # not valid before the day before that
    assert [certificate.refresh() for _ in range(2)] == [False, False]
    clock[0] += timedelta(days=2)
    assert certificate.refresh() is True
    assert served_name(certificate.context) == der(pair[0])
    assert certificate.refresh() is False


def test_expired_files_end_tls_where_that_is_configured(tmp_path: Path) -> None:
    late = NOW + LIFETIME + timedelta(days=1)
    certificate = FileCertificate(*write_pair(tmp_path), now=lambda: late, serve_expired=False)
    assert not certificate.can_serve
    assert certificate.choose("mail.example.test") is Unserved.EXPIRED
    write_pair(tmp_path, now=late)
    assert certificate.refresh() is True
    assert certificate.choose("mail.example.test") is certificate.context


def test_nothing_to_serve_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CertificateUnusable, match=r"cert\.pem"):
        FileCertificate(tmp_path / "cert.pem", tmp_path / "key.pem", now=lambda: NOW)


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem"])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, broken: str) -> None:
    pair = write_pair(tmp_path)
    (tmp_path / broken).unlink()
    (tmp_path / broken).mkdir()  # may be tried as root, whom no mode keeps out
    with pytest.raises(CertificateUnusable, match=broken):
        FileCertificate(*pair, now=lambda: NOW)


@pytest.mark.parametrize(("mode", "is_said"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_key_that_everybody_can_read_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_said: bool
) -> None:
    pair = write_pair(tmp_path)
    pair[1].chmod(mode)
    FileCertificate(*pair, now=lambda: NOW)
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert bool(warned) is is_said
    assert all(str(pair[1]) in record.getMessage() for record in warned)
