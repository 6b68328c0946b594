"""Blocks and counts as sentences for operators."""

from __future__ import annotations

from datetime import UTC, datetime

from node.units import format_duration

from .blocks import BY_ADDRESS, BY_ADMIN, BY_FAST, BY_USER, FOREVER, Block
from .facts import Counts
from .rules import FAST_WINDOW_S, Rules
from .subjects import render

OPTION = {
    BY_USER: "max_attempts_per_ip_username",
    BY_ADDRESS: "max_attempts_per_ip",
    BY_FAST: "fast_block_threshold",
    BY_ADMIN: "",
}


def explain_block(block: Block, rules: Rules, now: float) -> str:
    """What is refused, why, by whom, and until when."""
    whom = f"{render(block.subject)} is refused"
    if block.user:
        whom += f" as user {block.user}"
    parts = [f"{whom} since {_moment(block.since)} {_end(block, now)}.", _cause(block, rules)]
    if block.last_user:
        parts.append(f"The last user tried was {block.last_user}.")
    if block.level:
        parts.append(f"It is block number {block.level + 1} in a row, and lasts longer for that.")
    return " ".join(parts)


def _cause(block: Block, rules: Rules) -> str:
    by = f"node {block.origin}"
    if block.rule == BY_ADMIN:
        because = f': "{block.reason}"' if block.reason else ""
        return f"An operator blocked it on {by}{because}."
    failures = {
        BY_USER: f"{block.count} wrong passwords within {format_duration(rules.user_window_s)}",
        BY_ADDRESS: f"{block.count} failed logins within {format_duration(rules.address_window_s)}",
        BY_FAST: f"failed logins for {block.count} different users within {format_duration(FAST_WINDOW_S)}",
    }[block.rule]
    return f"Rule {OPTION[block.rule]} of auth_rate_limit counted {failures}, on {by}."


def explain_counts(counts: Counts, rules: Rules, now: float) -> list[str]:
    """What an address has been counted for so far, and what that would lead to."""
    lines = []
    if counts.failures or counts.others:
        left = format_duration(max(0, round(counts.since + rules.address_window_s - now)))
        lines.append(
            f"It has {counts.failures} failed logins that count here, {counts.others} on other nodes;"
            f" {rules.address_failures or 'no number of them'} block it. The count ends in {left}."
        )
    if counts.different_users > 1:
        lines.append(
            f"They were for {counts.different_users} different users within the last minute;"
            f" {rules.fast_users or 'no number of them'} block it at once."
        )
    if counts.level:
        lines.append(f"It was blocked before: the next block is number {counts.level + 1} in a row.")
    if counts.last_success is not None:
        lines.append(
            f"A user logged in from it at {_moment(counts.last_success)}: while a rule blocks it, users who"
            " logged in from its neighbourhood before still may."
        )
    return lines


def exemption_hint(text: str) -> str:
    return f'To exempt it for good: exempt_networks = ["{text}"] in auth_rate_limit, or trusted_networks.'


def _end(block: Block, now: float) -> str:
    if block.until >= FOREVER:
        return "until it is removed"
    left = format_duration(max(1, round(block.until - now)))
    return f"until {_moment(block.until)} ({left} from now)"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
