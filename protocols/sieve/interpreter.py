"""Running compiled scripts on one message.

Several scripts run one after the other (the site's before the user's, the user's before the site's after):
each goes on only where the one before left the message to be kept, by the implicit keep or by ``keep``.

A script that goes wrong is given up: its actions are dropped, those of the scripts before it stay, no script
after it runs, and the message is kept (RFC 5228 §2.10.6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from .budget import Budget, Limits
from .control import Return, Stop
from .errors import RunFault
from .fields import Fields
from .outcome import Action, FileInto, Keep, Outcome, Redirect, Reject, Vacation
from .questions import Answers
from .run import Frame, Mail, Run
from .script import IncludeName, Script
from .verdict import merged


@dataclass(frozen=True, slots=True)
class Named:
    """A script and what it is called in traces and in logs."""

    name: str
    script: Script


def evaluate(
    scripts: Sequence[Named],
    mail: Mail,
    answers: Answers,
    *,
    now: datetime,
    clock: Callable[[], float],
    limits: Limits = Limits(),  # noqa: B008  (immutable)
    environment: Mapping[str, str] | None = None,
    library: Mapping[IncludeName, Script | None] | None = None,
    wants_trace: bool = False,
    fields: Fields | None = None,
) -> Outcome:
    """What is to be done with the message. ``now`` is aware, ``clock`` gives monotonic seconds. ``fields``
    are those of the header as an earlier call has read them; where that call has changed them, they are read
    anew.

    The same input gives the same outcome. Raises Unanswered, whatever else happens is in the outcome.
    """
    run = Run(
        mail=mail,
        answers=answers,
        environment=environment or {},
        budget=Budget(limits, clock),
        now=now,
        library=library or {},
        fields=Fields(mail.header) if fields is None or fields.is_changed else fields,
        trace=[] if wants_trace else None,
        flags=mail.flags,
    )
    keep = Keep(None, run.flags)  # as the scripts so far leave the message
    for named in scripts:
        actions, seen = run.actions, run.seen
        run.actions, run.seen, run.cancels_keep = list(actions), list(seen), False
        try:
            kept = _run_one(run, named)
        except RunFault as fault:
            run.actions, run.seen = actions, seen
            run.tell(0, f"given up: {fault}")
            return _outcome(run, [*actions, keep], str(fault), named.name)
        if kept is None:
            return _outcome(run, run.actions)
        keep = kept
        if named is not scripts[-1]:  # the next one decides about what this one keeps
            run.actions = [each for each in run.actions if not isinstance(each, Keep)]
    if run.cancels_keep:
        return _outcome(run, run.actions)
    run.tell(0, "implicit keep")
    return _outcome(run, [*run.actions, keep])


def are_idle(scripts: Sequence[Script], fields: Fields, budget: Budget) -> bool:
    """Whether it is certain that ``evaluate`` would give nothing but the implicit keep: no rule of any script
    can hold with these fields. For a part of what running them costs."""
    try:
        for script in scripts:
            if script.idles is None or not script.idles(fields, budget):
                return False
    except RunFault:  # the budget; the scripts have one of their own
        return False
    return True


def _run_one(run: Run, named: Named) -> Keep | None:
    """The keep, without a rule also where there is one; None: the message is not kept. Raises RunFault."""
    run.frames = [Frame(named.name, named.script)]
    run.because = 0
    try:
        named.script.run(run)
    except (Stop, Return):
        pass
    except RecursionError:
        raise RunFault("nested too deep") from None
    finally:
        run.parts.clear()
    _check_rejection(run.actions)
    keeps = [action for action in run.actions if isinstance(action, Keep)]
    if keeps:
        return replace(keeps[-1], rule=None)
    return None if run.cancels_keep else Keep(None, run.flags, run.rewritten())


def _check_rejection(actions: Sequence[Action]) -> None:
    """RFC 5429 §2.3. Raises RunFault."""
    line = next((action.rule.line for action in actions if isinstance(action, Reject)), 0)
    if line and any(isinstance(action, Keep | FileInto | Redirect | Vacation) for action in actions):
        what = "a message that is rejected cannot be kept, filed, sent on or answered as well"
        raise RunFault(what, line)


def _outcome(run: Run, actions: Sequence[Action], fault: str = "", script: str = "") -> Outcome:
    return Outcome(
        actions=tuple(merged(actions, keeps_in_inbox=run.mail.is_delivery)),
        seen=tuple(dict.fromkeys(run.seen)),
        fault=f"{script}: {fault}" if fault else "",
        trace=tuple(run.trace or ()),
        steps=run.budget.steps,
        notes=tuple(run.notes),
    )
