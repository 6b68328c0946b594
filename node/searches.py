"""How many searches an account may make on a server, whichever process serves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from protocols.imap.searchpace import SearchPace

from .limits import search_rate

if TYPE_CHECKING:
    from storage.model import AccountId

    from .config import Config


class Searches:
    """Of all processes of a node. ``clock`` gives monotonic seconds."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paces: dict[str, SearchPace] = {}  # by server
        self.obey(config)

    def obey(self, config: Config) -> None:
        """From the next search on; what was counted stays counted."""
        for server in config.servers:
            if server.type == "imap":
                self._paces.setdefault(server.name, SearchPace(None)).rate = search_rate(server)

    async def begin(self, server: str, account: AccountId) -> None:
        """Counts a search that reads messages. Raises TooManySearches."""
        self._paces[server].begin(account, self._clock())
