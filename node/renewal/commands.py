"""The ``certs.*`` commands of the control socket."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from node.control import Arguments, ControlRefused, Handler, text_argument
from storage.errors import Unavailable
from tls.domains import BadName, fold
from tls.errors import CertificateUnusable
from tls.names import folded
from tls.ports import BucketUnavailable, IssuingFailed
from tls.renewing.operations import Operations
from tls.renewing.ordering import Outcome, Result

from .reasons import REASONS
from .setup import staging_of

if TYPE_CHECKING:
    from tls.renewing.rounds import Rounds, Standing
    from tls.renewing.shelf import Copy
    from tls.renewing.tools import Tools
    from tls.wanted import Wanted

    from .part import RenewalPart

NOT_HERE: Final = "this node's certificates come from files: tls.provider is not letsencrypt"


def certificate_commands(part: RenewalPart) -> dict[str, Handler]:
    commands = CertificateCommands(part)
    return {
        "certs.list": commands.list,
        "certs.show": commands.show,
        "certs.renew": commands.renew,
        "certs.revoke": commands.revoke,
        "certs.check": commands.check,
        "certs.import": commands.import_pair,
        "certs.export": commands.export,
        "certs.rollover": commands.rollover,
    }


class CertificateCommands:
    def __init__(self, part: RenewalPart) -> None:
        self._part = part

    def _parts(self) -> tuple[Rounds, Tools]:
        if self._part.rounds is None or self._part.tools is None:
            raise ControlRefused("not_found", NOT_HERE)
        return self._part.rounds, self._part.tools

    def _operations(self) -> Operations:
        rounds, tools = self._parts()
        return Operations(tools, rounds)

    def _wanted(self, arguments: Arguments) -> Wanted:
        """The one that ``name`` means: an id, or any of its names; several key types need the id."""
        rounds, _ = self._parts()
        name = text_argument(arguments, "name", "")
        found = [each for each in rounds.plan.wanted if each.id == name]
        found = found or list(rounds.plan.for_name(_written(name)) if name else rounds.plan.wanted)
        if not found:
            raise ControlRefused("not_found", f"no certificate is configured for {name!r}")
        if len(found) > 1:
            ids = ", ".join(f"{each.id} ({each.key_type.value})" for each in found)
            raise ControlRefused("usage", f"several certificates; name one by its id: {ids}")
        return found[0]

    async def list(self, _arguments: Arguments) -> object:
        rounds, tools = self._parts()
        return {
            "node": tools.company.name,
            "bucket": tools.shelf.bucket_trouble,
            "synced_at": _time(tools.shelf.synced_at),
            "certificates": [self._line(each) for each in rounds.plan.wanted],
            "shown": self._part.shown(),
        }

    def _line(self, wanted: Wanted) -> dict[str, Any]:
        rounds, tools = self._parts()
        copy = tools.shelf.copies.get(wanted.id)
        return {
            "id": wanted.id,
            "names": list(wanted.names),
            "key_type": wanted.key_type.value,
            **_standing(rounds.standings.get(wanted.id)),
            "without": [] if copy is None else list(rounds.plan.lacking(copy.generation)),
            "meanwhile": [each.generation.fence for each in tools.shelf.standing_in(wanted)],
            **_copy(copy),
        }

    async def show(self, arguments: Arguments) -> object:
        wanted = self._wanted(arguments)
        rounds, tools = self._parts()
        line = self._line(wanted)
        line["attempts"] = {}
        for ca in rounds.plan.cas:
            known = await tools.record.load(ca.directory, wanted.id)
            line["attempts"][ca.directory] = {
                "failures": known.failures,
                "blocked_until": _time(known.blocked_until),
                "blocked_why": known.blocked_why,
                "last_failure": known.last_failure,
                "last_failure_at": _time(known.last_failure_at),
                "last_success_at": _time(known.last_success_at),
                "suggested_at": _time(known.renew_at),
            }
        try:
            line["generations"] = await tools.vault.generations(wanted.id)
        except BucketUnavailable as error:
            line["generations"], line["bucket"] = [], str(error)
        return line

    async def renew(self, arguments: Arguments) -> object:
        """``force``: though it is not due, and whatever failed before. ``dry_run``: at a CA for tests."""
        wanted = self._wanted(arguments)
        rounds, tools = self._parts()
        try:
            if arguments.get("dry_run") is True:
                outcome = await rounds.ordering.dry_run(wanted, staging_of(rounds.plan))
            else:
                outcome = await rounds.order(wanted, forced=arguments.get("force") is True)
        except Unavailable as error:
            raise ControlRefused("busy", f"the database cannot be used now: {error}") from error
        rounds.wake()
        return {**_outcome(outcome), "id": wanted.id, **_copy(tools.shelf.copies.get(wanted.id))}

    async def revoke(self, arguments: Arguments) -> object:
        wanted, reason = self._wanted(arguments), text_argument(arguments, "reason", "unspecified")
        if reason not in REASONS:
            raise ControlRefused("usage", f"reason is one of {', '.join(REASONS)}")
        outcome = await self._guarded(self._operations().revoke(wanted, REASONS[reason]))
        return {**_outcome(outcome), "id": wanted.id, "reason": reason}

    async def check(self, arguments: Arguments) -> object:
        """What the CA would see, without asking it."""
        rounds, _ = self._parts()
        name = text_argument(arguments, "name", "")
        asked = [each for each in rounds.plan.wanted if not name or each.id == name]
        names = list(dict.fromkeys(each for wanted in asked for each in wanted.names))
        if not names and rounds.plan.for_name(_written(name)):
            names = [_written(name)]
        if not names:
            raise ControlRefused("not_found", f"no certificate is configured for {name!r}")
        remarks = await rounds.ordering.look_ahead(names)
        return {"names": names, "by_dns": rounds.plan.use_dns, "remarks": list(remarks)}

    async def import_pair(self, arguments: Arguments) -> object:
        """``chain`` and ``key``: PEM."""
        chain, key = text_argument(arguments, "chain").encode(), text_argument(arguments, "key").encode()
        wanted = self._wanted(arguments)
        outcome = await self._guarded(self._operations().take_over(wanted, chain, key))
        return {**_outcome(outcome), "id": wanted.id}

    async def export(self, arguments: Arguments) -> object:
        wanted = self._wanted(arguments)
        copy = self._parts()[1].shelf.copies.get(wanted.id)
        if copy is None:
            raise ControlRefused("not_found", f"there is no certificate yet for {wanted.label}")
        generation = copy.generation
        return {"id": wanted.id, "chain": generation.chain_pem.decode(), "key": generation.key_pem.decode()}

    async def rollover(self, _arguments: Arguments) -> object:
        return {"accounts": await self._guarded(self._operations().roll_accounts())}

    async def _guarded(self, work: Any) -> Any:
        """Raises ControlRefused."""
        try:
            return await work
        except Unavailable as error:
            raise ControlRefused("busy", f"the database cannot be used now: {error}") from error
        except BucketUnavailable as error:
            raise ControlRefused("busy", f"the bucket cannot be used now: {error}") from error
        except IssuingFailed as error:
            raise ControlRefused("refused", str(error)) from error
        except CertificateUnusable as error:
            raise ControlRefused("usage", str(error)) from error


def _written(name: str) -> str:
    """As it is in certificates, however people write it."""
    try:
        return fold(name)
    except BadName:
        return folded(name)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    is_done = outcome.result in (Result.ISSUED, Result.UP_TO_DATE)
    until = _time(outcome.until)
    return {"done": is_done, "result": outcome.result.value, "text": outcome.text, "until": until}


def _standing(standing: Standing | None) -> dict[str, Any]:
    if standing is None:
        return {"state": "unknown", "note": "", "renew_at": None, "blocked_until": None}
    return {
        "state": standing.verdict.state.value,
        "note": standing.note,
        "renew_at": _time(standing.verdict.renew_at),
        "blocked_until": _time(standing.until),
    }


def _copy(copy: Copy | None) -> dict[str, Any]:
    if copy is None:
        nothing = dict.fromkeys(("fence", "not_before", "not_after"))
        return {**nothing, "fingerprint": "", "issuer": "", "ca": ""}
    leaf = x509.load_pem_x509_certificate(copy.generation.chain_pem)
    return {
        "fence": copy.generation.fence,
        "not_before": _time(copy.bundle.not_before),
        "not_after": _time(copy.bundle.not_after),
        "fingerprint": copy.bundle.fingerprint,
        "issuer": leaf.issuer.rfc4514_string(),
        "ca": copy.generation.ca,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
