"""A CA's refusals (RFC 8555 §6.7, problem documents of RFC 7807) and what they are to us. Pure.

Nothing a CA sends makes this raise: what cannot be read is a refusal without a kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..ports import Failure, IssuingFailed

PREFIX = "urn:ietf:params:acme:error:"
MAX_TEXT = 500  # characters; it goes to logs and to the database
MAX_SUBPROBLEMS = 100

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

# Whatever the step. The kinds that mean something else in another step are in the tables below.
FAILURES: Mapping[str, Failure] = {
    "accountDoesNotExist": Failure.LOST_ACCOUNT,
    "badNonce": Failure.UNREACHABLE,  # after all repetitions: it is in trouble
    "caa": Failure.REJECTED_NAME,
    "connection": Failure.VALIDATION,
    "dns": Failure.VALIDATION,
    "dnssec": Failure.VALIDATION,
    "externalAccountRequired": Failure.BAD_ACCOUNT,
    "incorrectResponse": Failure.VALIDATION,
    "invalidContact": Failure.BAD_ACCOUNT,
    "invalidEmail": Failure.BAD_ACCOUNT,
    "rateLimited": Failure.RATE_LIMITED,
    "rejectedIdentifier": Failure.REJECTED_NAME,
    "serverInternal": Failure.UNREACHABLE,
    "tls": Failure.VALIDATION,
    "unknownHost": Failure.VALIDATION,
    "unsupportedContact": Failure.BAD_ACCOUNT,
    "unsupportedIdentifier": Failure.REJECTED_NAME,
    "userActionRequired": Failure.BAD_ACCOUNT,
}
# "unauthorized" and "malformed" say what is wrong only together with the step.
REGISTERING: Mapping[str, Failure] = {
    "badPublicKey": Failure.BAD_ACCOUNT,
    "badSignatureAlgorithm": Failure.BAD_ACCOUNT,
    "malformed": Failure.BAD_ACCOUNT,
    "unauthorized": Failure.BAD_ACCOUNT,
}
LOOKING_UP: Mapping[str, Failure] = {"unauthorized": Failure.LOST_ACCOUNT}  # closed, RFC 8555 §7.3.6
ORDERING: Mapping[str, Failure] = {"unauthorized": Failure.BAD_ACCOUNT}  # deactivated, RFC 8555 §7.3.6
VALIDATING: Mapping[str, Failure] = {"unauthorized": Failure.VALIDATION, "malformed": Failure.VALIDATION}
NOWHERE: Mapping[str, Failure] = {}


@dataclass(frozen=True, slots=True)
class Problem:
    """``kind``: the ACME error without its prefix, or empty. ``status``: of HTTP; 0: inside an object."""

    kind: str = ""
    detail: str = ""
    status: int = 0
    name: str = ""
    parts: tuple[Problem, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Of the identifiers that it is about."""
        own = (self.name,) if self.name else ()
        return tuple(dict.fromkeys((*own, *(name for part in self.parts for name in part.names()))))

    def text(self) -> str:
        """In one line, at most MAX_TEXT characters, nothing in it that could forge a line of a log."""
        about = f"{self.name}: " if self.name else ""
        kind = f" ({self.kind})" if self.kind else ""
        words = f"{about}{self.detail or f'HTTP {self.status}'}{kind}"
        return clean("; ".join((words, *(part.text() for part in self.parts))))


def clean(text: str) -> str:
    text = _UNPRINTABLE.sub(" ", text).strip()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def parse_problem(document: object, status: int = 0, deep: bool = True) -> Problem:
    """Of decoded JSON of any shape."""
    if not isinstance(document, Mapping):
        return Problem(status=status)
    typ, detail = _text(document.get("type")), _text(document.get("detail")) or _text(document.get("title"))
    page = _text(document.get("instance"))
    if page and typ == f"{PREFIX}userActionRequired":  # the terms to agree to, RFC 8555 §7.3.3
        detail = f"{detail}, see {page}"
    identifier = document.get("identifier")
    inner = document.get("subproblems")
    parts = inner[:MAX_SUBPROBLEMS] if deep and isinstance(inner, list) else ()
    return Problem(
        kind=clean(typ.removeprefix(PREFIX))[:60] if typ.startswith(PREFIX) else "",
        detail=clean(detail),
        status=status,
        name=clean(_text(identifier.get("value")))[:255] if isinstance(identifier, Mapping) else "",
        parts=tuple(parse_problem(part, deep=False) for part in parts),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def failure_of(problem: Problem, step: Mapping[str, Failure] = NOWHERE) -> Failure:
    """What class of failure it is; with parts, the one that most needs an operator."""
    for part in problem.parts:
        inner = failure_of(part, step)
        if inner is not Failure.REFUSED:
            return inner
    found = step.get(problem.kind) or FAILURES.get(problem.kind)
    if found is not None:
        return found
    if problem.status == 429:
        return Failure.RATE_LIMITED
    return Failure.UNREACHABLE if problem.status >= 500 else Failure.REFUSED


def failed(
    problem: Problem,
    step: Mapping[str, Failure] = NOWHERE,
    *,
    retry_after_s: float | None = None,
    ordered: Sequence[str] = (),
) -> IssuingFailed:
    """``ordered``: all names of the order; those that the words mention count when no identifier is given."""
    names = problem.names() or tuple(_mentioned(problem.text(), ordered))
    failure = failure_of(problem, step)
    return IssuingFailed(failure, problem.text(), retry_after_s=retry_after_s, names=names)


def _mentioned(text: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if re.search(rf"(?<![\w.*-]){re.escape(name)}(?![\w-]|\.\w)", text)]


def joined(failures: Sequence[IssuingFailed]) -> IssuingFailed:
    """Of several names that failed each for its own reason: the first class, all words and names."""
    names = dict.fromkeys(name for failure in failures for name in failure.names)
    text = clean("; ".join(failure.text for failure in failures))
    return IssuingFailed(failures[0].failure, text, names=tuple(names))
