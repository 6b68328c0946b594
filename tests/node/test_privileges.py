"""Who the node becomes, what it makes for that account, what it says when something is somebody else's."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node import certificates
from node.certificates import Certificates
from node.config import S3, Cluster, Config, LocalCache, Logging, Server, Tls, Uploader
from node.privileges import (
    PrivilegesUnusable,
    account_of,
    account_to_become,
    check_usable,
    directories,
    hand_over,
    may_read,
    who_we_are,
)
from tls.errors import CertificateUnusable
from tls.selfsigned import self_signed

ME = pwd.getpwuid(os.geteuid()).pw_name
MY_GROUP = grp.getgrgid(os.getegid()).gr_name
ELSE = "daemon"  # in every base system


def configuration(folder: Path) -> Config:
    return Config(
        user=ME,
        uploader=Uploader(path=str(folder / "a" / "staging")),
        local_cache=LocalCache(path=str(folder / "cache")),
        s3=S3(driver="file", path=str(folder / "objects")),
        logging=Logging(output=str(folder / "logs" / "node.log")),
    )


@pytest.mark.parametrize(
    ("user", "group", "words"),
    [("norbody", "", 'user: .*"norbody".*useradd'), (ME, "norgroup", 'group: .*"norgroup".*groupadd')],
)
def test_names_that_the_machine_does_not_know(user: str, group: str, words: str) -> None:
    with pytest.raises(PrivilegesUnusable, match=words):
        account_of(user, group)


def test_the_group_is_the_accounts_own_unless_one_is_named() -> None:
    account = account_of(ELSE, "")
    assert (account.uid, account.gid) == (pwd.getpwnam(ELSE).pw_uid, pwd.getpwnam(ELSE).pw_gid)
    assert account_of(ELSE, "tty").gid == grp.getgrnam("tty").gr_gid


def test_nothing_is_to_be_done_without_user_and_for_who_is_it_already() -> None:
    assert account_to_become(Config()) is None
    assert account_to_become(Config(user=ME)) is None
    assert account_to_become(Config(user=ME, group=MY_GROUP)) is None


def test_only_root_may_become_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    with pytest.raises(PrivilegesUnusable, match=rf'user: .*by the user "nobody".*root.*"{ELSE}"'):
        account_to_become(Config(user=ELSE))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    account = account_to_become(Config(user=ELSE))
    assert account is not None
    assert account.name == ELSE


def test_a_group_that_we_are_not_in_cannot_be_had_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(os, "getegid", lambda: 54321)
    with pytest.raises(PrivilegesUnusable, match=r"group: .*only root could add"):
        account_to_become(Config(user=ME, group=MY_GROUP))


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Whoever runs the tests may have a stricter one, which takes rights from all that is made."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_what_is_missing_is_made_and_can_be_used(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    hand_over(config, account_of(ME, ""))
    for _, path in directories(config):
        assert path.is_dir()
    assert (tmp_path / "a" / "staging").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "logs" / "node.log").stat().st_mode & 0o777 == 0o640
    check_usable(config)


@pytest.mark.usefixtures("usual_umask")
def test_what_is_there_is_left_alone_and_no_link_is_followed(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "node.log").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "objects").mkdir(mode=0o755)
    hand_over(config, account_of(ME, ""))
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o755


def refuse(monkeypatch: pytest.MonkeyPatch, denied: Path) -> None:
    """As if this one were somebody else's."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(denied) and access(path, mode))


@pytest.mark.parametrize(
    ("denied", "key"),
    [
        ("a/staging", "uploader.path"),
        ("a/staging/feed", "uploader.path"),
        ("cache", "local_cache.path"),
        ("objects", "s3.path"),
    ],
)
def test_what_is_somebody_elses_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str, key: str
) -> None:
    config = configuration(tmp_path)
    hand_over(config, account_of(ME, ""))
    (tmp_path / "a" / "staging" / "feed").mkdir()
    refuse(monkeypatch, tmp_path / denied)
    with pytest.raises(PrivilegesUnusable, match=rf"{key}: .* chown -R {ME}:{MY_GROUP} {tmp_path}/"):
        check_usable(config)


def test_a_log_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(tmp_path)
    hand_over(config, account_of(ME, ""))
    refuse(monkeypatch, tmp_path / "logs" / "node.log")
    with pytest.raises(PrivilegesUnusable, match=r"logging\.output: .*chown"):
        check_usable(config)


def test_keys_of_the_cluster_that_somebody_else_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on with the configured keys would be to leave a cluster that has rotated them."""
    config = replace(configuration(tmp_path), cluster=Cluster(enabled=True))
    hand_over(config, account_of(ME, ""))
    keys = tmp_path / "a" / "cluster-keys.json"
    refuse(monkeypatch, keys)
    check_usable(config)
    keys.touch()
    with pytest.raises(
        PrivilegesUnusable, match=rf"cluster\.keyring_file: .*chown -R {ME}:{MY_GROUP} {keys}"
    ):
        check_usable(config)


def test_a_directory_that_the_configuration_does_not_use_is_not_made(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    other = replace(config, s3=S3(path=str(tmp_path / "objects")), local_cache=LocalCache(capacity_bytes=0))
    assert [key for key, _ in directories(other)] == ["control_socket", "uploader.path"]


def test_missing_files_may_be_read_and_forbidden_ones_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert may_read(tmp_path / "missing")
    (tmp_path / "there").touch()
    assert may_read(tmp_path / "there")

    def forbid(*_arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    assert not may_read(tmp_path / "there")


# --- certificates that may not be read any more --------------------------------------------------------


def with_pair(folder: Path) -> Config:
    write_pair(folder)
    pair = Tls(enabled=True, cert_file=str(folder / "cert.pem"), key_file=str(folder / "key.pem"))
    return Config(tls=pair, servers=(Server(name="imap", type="imap"),))


def write_pair(folder: Path) -> None:
    for name, content in zip(("cert", "key"), self_signed(["localhost"], datetime.now(UTC)), strict=True):
        (folder / f"{name}.pem").write_bytes(content)


def hide(monkeypatch: pytest.MonkeyPatch, hidden: Path) -> None:
    read = Path.read_bytes

    def refuse_hidden(path: Path) -> bytes:
        if path == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse_hidden)
    monkeypatch.setattr(certificates, "may_read", lambda path: path != hidden)


def test_a_hidden_key_is_said_once_and_what_is_shown_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_pair(tmp_path)
    found = Certificates(config)
    shown = found.of(config.servers[0])
    assert shown is not None
    first = shown.bundle.fingerprint
    with monkeypatch.context() as patch:
        hide(patch, tmp_path / "key.pem")
        write_pair(tmp_path)
        for _ in range(3):
            found.refresh()
        assert caplog.text.count(f"key.pem may not be read by {who_we_are()}") == 1
        assert f"chgrp {MY_GROUP} {tmp_path}/key.pem" in caplog.text
        assert caplog.text.count("the changed certificate is not taken") == 1
        assert len(found.troubles()) == 1
        found.prepare(config)()  # a reload changes nothing
        assert shown.bundle.fingerprint == first
    (tmp_path / "key.pem").chmod(0o640)  # which is how it is mended
    found.refresh()
    assert found.troubles() == []
    assert shown.bundle.fingerprint != first


def test_a_new_pair_that_may_not_be_read_is_refused_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_pair(tmp_path)
    found = Certificates(config)
    found.of(config.servers[0])
    (tmp_path / "new").mkdir()
    other = with_pair(tmp_path / "new")
    hide(monkeypatch, tmp_path / "new" / "key.pem")
    with pytest.raises(CertificateUnusable, match=f"Permission denied; let it: chgrp {MY_GROUP} "):
        found.prepare(other)


def test_another_process_shows_what_this_one_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_pair(tmp_path)
    reader = Certificates(config)
    first = reader.of(config.servers[0])
    assert first is not None
    with monkeypatch.context() as patch:
        hide(patch, tmp_path / "key.pem")
        other = Certificates(config, reader.materials())
        shown = other.of(config.servers[0])
        assert shown is not None
        assert shown.bundle.fingerprint == first.bundle.fingerprint
        other.refresh()
        assert "may not be read" not in caplog.text  # the reader says so
    write_pair(tmp_path)
    reader.refresh()
    other.learn(reader.materials())
    assert shown.bundle.fingerprint == first.bundle.fingerprint != ""
    assert shown.material.key not in repr(shown.material).encode()
