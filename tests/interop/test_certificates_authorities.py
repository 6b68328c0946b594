"""A node with two real authorities: the first has no use for it, the second wants the account bound."""

from __future__ import annotations

from tests.support.nodeprocess import NodeProcess
from tests.support.pebble import EAB_KEY, EAB_KID, Pebble, PebbleOptions, require_pebble
from tests.support.waiting import eventually

from .test_certificates import certs, edited, shown

SECOND = """[[tls.letsencrypt.authority]]
directory = "{directory}"
email = "second@example.test"
ca_file = "{ca_file}"
eab_kid = "{kid}"
eab_hmac_key = "{key}"

"""


def test_the_second_authority_binds_the_account_as_its_own_table_says() -> None:
    require_pebble()
    with (
        Pebble(PebbleOptions(external_accounts=True)) as first,
        Pebble(PebbleOptions(external_accounts=True, http_port=first.options.http_port)) as second,
    ):
        made = NodeProcess()
        edit = edited(first, made.directory / "certs")
        table = SECOND.format(directory=second.directory, ca_file=second.ca_file, kid=EAB_KID, key=EAB_KEY)

        def with_both(text: str) -> str:
            return edit(text).replace("[[servers]]", f"{table}[[servers]]", 1)

        with made.prepare(with_both, s3="rclone") as node:
            eventually(lambda: bool(shown(node).fingerprint), 240.0, "the second authority has issued")
            assert shown(node, second.root_pem().decode()).is_trusted
            attempts = certs(node, "show")["attempts"]
            assert "external account binding" in attempts[first.directory]["last_failure"]
            assert "[[tls.letsencrypt.authority]]" in attempts[first.directory]["last_failure"]
            assert attempts[second.directory]["last_success_at"]
            accounts = [each.payload for each in second.front.requests("new-account")]
            contacts = {tuple(each["contact"]) for each in accounts if "contact" in each}
            assert contacts == {("mailto:second@example.test",)}
            assert EAB_KEY not in node.log
