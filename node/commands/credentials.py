"""``sora-admin credentials``."""

from __future__ import annotations

import click

from storage.model import Account

from .access import Access, Stores, with_access
from .accounts import account_data, credential_data, credentials_table, scheme_name
from .addresses import address_argument
from .failure import EXIT_CODES
from .output import fields, show_time
from .passwordinput import PasswordInput, with_password


@click.group(epilog=EXIT_CODES)
def credentials() -> None:
    """Further addresses of an account, each with its own password.

    Any of them logs in to the account and receives mail for it.
    """


EXAMPLES = """\b
Examples:
  sora-admin credentials add ann@example.org sales@example.org
  sora-admin credentials add ann@example.org ann.smith@example.org --generate --make-primary"""


@credentials.command(epilog=EXAMPLES)
@click.argument("account", type=address_argument)
@click.argument("address", type=address_argument)
@click.option("--make-primary", is_flag=True, help="Make it the primary address of the account.")
@with_password
@with_access
def add(access: Access, account: str, address: str, make_primary: bool, password: PasswordInput) -> None:
    """Give the account that has ACCOUNT the further address ADDRESS."""
    resolved = password.resolve()

    async def extend(stores: Stores) -> Account:
        await stores.accounts.add_credential(account, address, resolved.stored)
        if make_primary:
            await stores.accounts.make_primary(address)
        return await stores.accounts.account(address)

    changed = access.run(extend)
    data, text = account_data(changed), f"added {address} to {changed.primary_address}"
    if resolved.generated:
        data["password"] = resolved.generated
        text += f"\npassword: {resolved.generated}"
    access.answer(data, text)


@credentials.command("list", epilog="\b\nExample:\n  sora-admin credentials list ann@example.org --json")
@click.argument("address", type=address_argument)
@with_access
def list_credentials(access: Access, address: str) -> None:
    """List the addresses of the account that has ADDRESS."""
    account = access.run(lambda stores: stores.accounts.account(address))
    access.answer([credential_data(each) for each in account.credentials], credentials_table(account))


@credentials.command(epilog="\b\nExample:\n  sora-admin credentials show sales@example.org")
@click.argument("address", type=address_argument)
@with_access
def show(access: Access, address: str) -> None:
    """Show one address and the account it belongs to."""
    account = access.run(lambda stores: stores.accounts.account(address))
    credential = next(each for each in account.credentials if each.address == address)
    text = fields(
        {
            "Address": address,
            "Account": account.primary_address,
            "Primary": "yes" if credential.is_primary else "no",
            "Scheme": scheme_name(credential),
            "Created": show_time(credential.created_at),
        }
    )
    access.answer({**credential_data(credential), "account": account.primary_address}, text)


@credentials.command(epilog="\b\nExample:\n  sora-admin credentials delete sales@example.org")
@click.argument("address", type=address_argument)
@with_access
def delete(access: Access, address: str) -> None:
    """Take ADDRESS away from its account; mail to it is refused from then on.

    The primary address cannot be taken away: make another one primary first.
    """
    access.run(lambda stores: stores.accounts.delete_credential(address))
    access.answer({"deleted": address}, f"deleted {address}")
