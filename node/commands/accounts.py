"""``sora-admin accounts``."""

from __future__ import annotations

import click

from node.passwords import BadHash, parse_hash
from storage.model import Account, Credential

from .access import Access, Stores, with_access
from .addresses import address_argument
from .failure import EXIT_CODES
from .output import fields, json_time, show_size, show_time, table
from .passwordinput import PasswordInput, with_password


@click.group(epilog=EXIT_CODES)
def accounts() -> None:
    """Accounts: create, look at, change, delete and restore them."""


def scheme_name(credential: Credential) -> str:
    try:
        return parse_hash(credential.password_hash).scheme_name
    except BadHash:
        return "unusable"


def credential_data(credential: Credential) -> dict[str, object]:
    """Without the hash: it is as good as the password to who can guess."""
    return {
        "address": credential.address,
        "primary": credential.is_primary,
        "scheme": scheme_name(credential),
        "created_at": json_time(credential.created_at),
    }


def account_data(account: Account) -> dict[str, object]:
    return {
        "id": account.id,
        "address": account.primary_address,
        "created_at": json_time(account.created_at),
        "deleted_at": json_time(account.deleted_at),
        "messages": account.messages,
        "size_bytes": account.size_bytes,
        "credentials": [credential_data(each) for each in account.credentials],
    }


def _account_text(account: Account) -> str:
    head = {
        "Account": account.primary_address,
        "Created": show_time(account.created_at),
        "Deleted": show_time(account.deleted_at),
        "Messages": account.messages,
        "Size": show_size(account.size_bytes),
    }
    if account.deleted_at is None:
        del head["Deleted"]
    return f"{fields(head)}\n\n{credentials_table(account)}"


def credentials_table(account: Account) -> str:
    rows = [
        (each.address, "yes" if each.is_primary else "", scheme_name(each), show_time(each.created_at))
        for each in account.credentials
    ]
    return table(("ADDRESS", "PRIMARY", "SCHEME", "CREATED"), rows)


EXAMPLES = """\b
Examples:
  sora-admin accounts create ann@example.org
  sora-admin accounts create ann@example.org --generate --json
  pass show mail/ann | sora-admin accounts create ann@example.org --password-stdin
  sora-admin accounts create ann@example.org --password-hash '{SSHA512}...'"""


@accounts.command(epilog=EXAMPLES)
@click.argument("address", type=address_argument)
@with_password
@with_access
def create(access: Access, address: str, password: PasswordInput) -> None:
    """Create the account ADDRESS with its default mailboxes.

    Asks for the password unless an option says where it comes from.
    """
    resolved = password.resolve()
    account = access.run(lambda stores: stores.accounts.create_account(address, resolved.stored))
    data, text = account_data(account), f"created {address}"
    if resolved.generated:
        data["password"] = resolved.generated
        text += f"\npassword: {resolved.generated}"
    access.answer(data, text)


@accounts.command(
    "list",
    epilog="\b\nExamples:\n  sora-admin accounts list\n"
    "  sora-admin accounts list --domain example.org --json",
)
@click.option("--domain", help="Only accounts with an address in this domain.")
@click.option("--deleted", is_flag=True, help="Deleted accounts too.")
@with_access
def list_accounts(access: Access, domain: str | None, deleted: bool) -> None:
    """List accounts by their primary address."""
    found = access.run(
        lambda stores: stores.accounts.accounts(domain and domain.lower(), include_deleted=deleted)
    )
    rows = [
        (
            each.primary_address,
            len(each.credentials),
            each.messages,
            show_size(each.size_bytes),
            show_time(each.created_at),
            *([show_time(each.deleted_at)] if deleted else []),
        )
        for each in found
    ]
    headings = ("ADDRESS", "CREDENTIALS", "MESSAGES", "SIZE", "CREATED", *(["DELETED"] if deleted else []))
    access.answer([account_data(each) for each in found], table(headings, rows))


@accounts.command(epilog="\b\nExample:\n  sora-admin accounts show ann@example.org")
@click.argument("address", type=address_argument)
@click.option("--deleted", is_flag=True, help="Show it even if it is deleted.")
@with_access
def show(access: Access, address: str, deleted: bool) -> None:
    """Show the account that has ADDRESS, primary or not."""
    account = access.run(lambda stores: stores.accounts.account(address, include_deleted=deleted))
    access.answer(account_data(account), _account_text(account))


UPDATE_EXAMPLES = """\b
Examples:
  sora-admin accounts update ann@example.org
  sora-admin accounts update ann@example.org --generate
  sora-admin accounts update ann.smith@example.org --make-primary"""


@accounts.command(epilog=UPDATE_EXAMPLES)
@click.argument("address", type=address_argument)
@click.option("--make-primary", is_flag=True, help="Make ADDRESS the primary address of its account.")
@with_password
@with_access
def update(access: Access, address: str, make_primary: bool, password: PasswordInput) -> None:
    """Change the password of ADDRESS, or make it primary, or both.

    Asks for the new password when no option is given. Clients that are logged in stay logged in.
    """
    resolved = password.resolve() if password.is_given or not make_primary else None

    async def change(stores: Stores) -> Account:
        if make_primary:
            await stores.accounts.make_primary(address)
        if resolved:
            await stores.accounts.set_password(address, resolved.stored)
        return await stores.accounts.account(address)

    account = access.run(change)
    done = ["made primary"] * make_primary + ["password changed"] * (resolved is not None)
    data, text = account_data(account), f"{address}: {', '.join(done)}"
    if resolved and resolved.generated:
        data["password"] = resolved.generated
        text += f"\npassword: {resolved.generated}"
    access.answer(data, text)


@accounts.command(epilog="\b\nExample:\n  sora-admin accounts delete ann@example.org --yes")
@click.argument("address", type=address_argument)
@click.option("--yes", "--confirm", is_flag=True, help="Do not ask.")
@with_access
def delete(access: Access, address: str, yes: bool) -> None:
    """Delete the account that has ADDRESS.

    All its addresses stop working at once. Its mail is kept for cleanup.grace_period; until then
    'accounts restore' brings everything back.
    """
    account = access.run(lambda stores: stores.accounts.account(address))
    if not yes:
        click.confirm(
            f"Delete {account.primary_address} ({len(account.credentials)} addresses,"
            f" {account.messages} messages)?",
            abort=True,
            err=True,
        )
    access.run(lambda stores: stores.accounts.delete_account(address))
    name = account.primary_address
    access.answer({"deleted": name}, f"deleted {name}; undo with: sora-admin accounts restore {name}")


@accounts.command(epilog="\b\nExample:\n  sora-admin accounts restore ann@example.org")
@click.argument("address", type=address_argument)
@with_access
def restore(access: Access, address: str) -> None:
    """Bring back the account that had ADDRESS, the one deleted last if there were several."""

    async def bring_back(stores: Stores) -> Account:
        await stores.accounts.restore_account(address)
        return await stores.accounts.account(address)

    account = access.run(bring_back)
    access.answer(account_data(account), f"restored {account.primary_address}")
