"""Run as a program: starts another one as systemd does with sockets of a .socket unit.

``python activate.py NAME:NAME 11,12 python -m node …``: descriptors 11 and 12 become 3 and 4.
"""

from __future__ import annotations

import fcntl
import os
import sys

FIRST = 3
ABOVE = 500  # all that is moved and closed


def main() -> None:
    names, descriptors, *command = sys.argv[1:]
    high = [fcntl.fcntl(int(each), fcntl.F_DUPFD, ABOVE) for each in descriptors.split(",")]
    for number, descriptor in enumerate(high, start=FIRST):
        os.dup2(descriptor, number, inheritable=True)
    os.closerange(FIRST + len(high), max(high) + 1)
    told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names}
    os.execve(command[0], command, {**os.environ, **told})


if __name__ == "__main__":
    main()
