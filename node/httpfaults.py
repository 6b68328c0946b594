"""What all our HTTP servers have in common: limits of headers, and silence about the faults of peers."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

MAX_HEADER_BYTES: Final = 8190


class _OurFaults(logging.Filter):
    """What a peer sends wrongly is answered with 400, and no news."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


OUR_FAULTS: Final = _OurFaults()  # a logger takes the same filter once
