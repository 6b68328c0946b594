"""``sora-node`` and ``python -m node``."""

from __future__ import annotations

import signal


def main() -> None:
    # until a running node listens for it, Ctrl-C ends the program without a word, also amid the imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import cli

    cli(prog_name="sora-node")


if __name__ == "__main__":
    main()
