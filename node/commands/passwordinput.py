"""Where a command gets a password from, and what becomes of it: a stored hash."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from node.passwords import (
    CREATABLE_SCHEMES,
    DEFAULT_SCHEME,
    BadHash,
    generate_password,
    hash_password,
    needs_upgrade,
    refusal,
    verify,
)


@dataclass(frozen=True, slots=True)
class PasswordInput:
    """The options as given; at most one source is set, none means asking at the terminal."""

    from_stdin: bool
    stored: str | None
    generate: bool
    text: str | None
    scheme: str

    @property
    def is_given(self) -> bool:
        return self.from_stdin or self.generate or self.stored is not None or self.text is not None

    def resolve(self) -> ResolvedPassword:
        """Read or make the password and hash it (blocks for the scheme's cost). Raises UsageError."""
        if self.stored is not None:
            return ResolvedPassword(_checked_hash(self.stored))
        if self.generate:
            generated = generate_password()
            return ResolvedPassword(hash_password(generated.encode(), self.scheme), generated)
        return ResolvedPassword(hash_password(self._read(), self.scheme))

    def _read(self) -> bytes:
        if self.text is not None:
            click.echo(
                "warning: --password can be seen in the process list; prefer --password-stdin", err=True
            )
            password = self.text.encode("utf-8", "surrogateescape")
        elif self.from_stdin:
            password = _first_line(sys.stdin.buffer.read())
        else:
            password = _ask()
        reason = refusal(password)
        if reason:
            raise click.UsageError(reason)
        return password


@dataclass(frozen=True, slots=True)
class ResolvedPassword:
    stored: str
    generated: str | None = None  # to be shown once

    def __repr__(self) -> str:
        return "ResolvedPassword(***)"


def _first_line(data: bytes) -> bytes:
    line = data.removesuffix(b"\n").removesuffix(b"\r")
    if b"\n" in line:
        raise click.UsageError("standard input holds more than one line; the password must be the only one")
    return line


def has_terminal() -> bool:
    return sys.stdin.isatty()


def _ask() -> bytes:
    if not has_terminal():
        raise click.UsageError(
            "no terminal to ask for a password: use --password-stdin, --generate or --password-hash"
        )
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return answer.encode("utf-8", "surrogateescape")


def _checked_hash(stored: str) -> str:
    try:
        verify(stored, b"any")
        weak = needs_upgrade(stored)
    except BadHash as error:
        raise click.BadParameter(str(error), param_hint="--password-hash") from error
    if weak:
        click.echo(f"note: the hash will be replaced by {DEFAULT_SCHEME} at the next login", err=True)
    return stored


def with_password(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the password options; the command gets ``password: PasswordInput``."""

    @click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
    @click.option("--password-hash", metavar="HASH", help="Store this hash, e.g. made by 'doveadm pw'.")
    @click.option("--generate", is_flag=True, help="Make a password up and print it.")
    @click.option("--password", metavar="TEXT", help="The password itself. Visible in the process list.")
    @click.option(
        "--scheme",
        type=click.Choice(CREATABLE_SCHEMES, case_sensitive=False),
        default=DEFAULT_SCHEME,
        show_default=True,
        help="How to hash it. Others than the default are replaced at the next login.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        password_stdin: bool,
        password_hash: str | None,
        generate: bool,
        password: str | None,
        scheme: str,
        **kwargs: Any,
    ) -> None:
        given = (password_stdin, password_hash is not None, generate, password is not None)
        if sum(given) > 1:
            raise click.UsageError(
                "give only one of --password-stdin, --password-hash, --generate and --password"
            )
        source = PasswordInput(password_stdin, password_hash, generate, password, scheme.upper())
        command(*args, password=source, **kwargs)

    return wrapped
