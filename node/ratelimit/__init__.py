"""Who has failed to log in too often: a pure model of failures and blocks, with the time as an argument.

Tour: ``rules`` (the numbers), ``subjects`` (what is counted: addresses, networks, pairs), ``counters``
(bounded memory), ``blocks`` (decisions, also those of other nodes), ``facts`` (what goes in and out),
``limiter`` (the whole), ``exemptions`` (who is left alone), ``words`` (what people are told).
"""

from .blocks import BadDelta, Block, Delta, Failures, Lifted, Word, decode, encode
from .facts import Attempt, Capacity, Counted, TooManyBlocks, Verdict
from .limiter import Limiter
from .rules import Rules
from .subjects import Address, BadSubject, Subject, parse_address, parse_subject, render, subject_of

__all__ = [
    "Address",
    "Attempt",
    "BadDelta",
    "BadSubject",
    "Block",
    "Capacity",
    "Counted",
    "Delta",
    "Failures",
    "Lifted",
    "Limiter",
    "Rules",
    "Subject",
    "TooManyBlocks",
    "Verdict",
    "Word",
    "decode",
    "encode",
    "parse_address",
    "parse_subject",
    "render",
    "subject_of",
]
