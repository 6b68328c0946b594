"""Who has failed to log in too often: a pure model of failures and blocks, with the time as an argument.

Tour: ``rules`` (the numbers), ``subjects`` (what is counted: addresses, networks, pairs), ``counters``
(bounded memory), ``blocks`` (decisions, also those of other nodes), ``limiter`` (the whole), ``words``
(what it tells people).
"""

from .blocks import BadDelta, Block, Delta, Failures, Lifted, decode, encode
from .limiter import Attempt, Capacity, Limiter, TooManyBlocks, Verdict
from .rules import Rules
from .subjects import Address, BadSubject, Subject, parse_address, parse_subject, render, subject_of

__all__ = [
    "Address",
    "Attempt",
    "BadDelta",
    "BadSubject",
    "Block",
    "Capacity",
    "Delta",
    "Failures",
    "Lifted",
    "Limiter",
    "Rules",
    "Subject",
    "TooManyBlocks",
    "Verdict",
    "decode",
    "encode",
    "parse_address",
    "parse_subject",
    "render",
    "subject_of",
]
