"""A process that orders one certificate and leaves its journal and answers in a folder: made to be killed.

python -m tests.interop.acmechild FOLDER DIRECTORY CA_FILE NAME...
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from tls.acme.authority import AcmeAuthority
from tls.ports import Account, CaSettings, Journal, Steps
from tls.wanted import Wanted


def write_account(folder: Path, account: Account) -> None:
    content = {"ca": account.ca, "key_json": account.key_json, "uri": account.uri}
    (folder / "account.json").write_text(json.dumps(content))


def load_journal(folder: Path, wanted: Wanted, ca: str) -> Journal | None:
    path = folder / "journal.json"
    if not path.exists():
        return None
    url, csr, key = json.loads(path.read_text())
    return Journal(wanted, 1, ca, url, csr.encode(), key.encode(), datetime.now(UTC))


class Child:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def steps(self) -> Steps:
        return Steps(
            publish_http=self._publish,
            withdraw_http=self._withdraw,
            publish_dns=self._never,
            withdraw_dns=self._never,
            journal=self._journal,
            check=self._check,
            say=print,
        )

    def _write(self, name: str, text: str) -> None:
        """At once or not at all: who is killed leaves nothing half."""
        (self._folder / "new").write_text(text)
        os.replace(self._folder / "new", self._folder / name)

    async def _publish(self, name: str, token: str, key_authorisation: str) -> None:
        self._write(token, key_authorisation)

    async def _withdraw(self, name: str, token: str) -> None:
        (self._folder / token).unlink()

    async def _never(self, name: str, value: str) -> None:
        raise AssertionError("no DNS here")

    async def _journal(self, url: str, csr_pem: bytes, key_pem: bytes) -> None:
        self._write("journal.json", json.dumps([url, csr_pem.decode(), key_pem.decode()]))

    async def _check(self) -> None:
        """Ours."""


async def main(folder: Path, directory: str, ca_file: str, names: list[str]) -> None:
    account = Account(**json.loads((folder / "account.json").read_text()))
    authority = AcmeAuthority(CaSettings(directory, ca_file=ca_file))
    await authority.issue(account, Wanted(tuple(names)), Child(folder).steps())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
