"""CPU time and memory of process trees, and a table of figures side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """``root`` and all its living descendants."""
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                queue += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def cpu_s(roots: list[int]) -> float:
    """CPU seconds of the trees so far, children that have ended included."""
    total = 0
    for pid in {pid for root in roots for pid in tree(root)}:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(value) for value in fields[11:15])
    return total / TICKS


def threads_cpu_s(pid: int) -> float:
    """CPU seconds of the living threads of one process, to the microsecond."""
    spent = (path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(map(int, spent)) / 1e9


def pss_bytes(roots: list[int]) -> int:
    """Proportional set size: shared pages are divided among those who share them."""
    total = 0
    for pid in {pid for root in roots for pid in tree(root)}:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


@dataclass
class Figure:
    name: str
    operations: int
    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.operations / self.wall_s

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.operations * 1e6


@dataclass
class Server:
    """One of the servers that are compared."""

    name: str
    roots: Callable[[], list[int]]
    imap: int
    imaps: int
    pop3: int
    lmtp: int
    password: str
    users: Iterator[str]
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def measured(self, name: str, operations: int, settle_s: float = 0.0) -> Iterator[None]:
        """``settle_s``: for what the server does behind its replies, which is in the CPU time only."""
        cpu, wall = cpu_s(self.roots()), time.perf_counter()
        yield
        wall = time.perf_counter() - wall
        time.sleep(settle_s)
        figure = Figure(name, operations, wall, cpu_s(self.roots()) - cpu)
        self.figures[name] = figure
        print(f"  {self.name:8} {name:44} {figure.rate:10.0f}/s {figure.cpu_us:10.0f} us CPU", flush=True)


def table(servers: list[Server]) -> str:
    """Markdown, the first server's figures first, with ratios to the second where there is one."""
    first, *others = servers
    other = others[0] if others else None
    lines = [
        "| what | "
        + f"{first.name}/s | CPU us"
        + (f" | {other.name}/s | CPU us | rate ratio |" if other else " |"),
        "|---|---|---|" + ("---|---|---|" if other else ""),
    ]
    for name, figure in first.figures.items():
        line = f"| {name} | {figure.rate:,.0f} | {figure.cpu_us:,.0f} |"
        if other and name in other.figures:
            rival = other.figures[name]
            line += f" {rival.rate:,.0f} | {rival.cpu_us:,.0f} | {figure.rate / rival.rate:.1f} |"
        elif other:
            line += " | | |"
        lines.append(line)
    lines += [f"\n{server.name}: {key}: {value}" for server in servers for key, value in server.notes.items()]
    return "\n".join(lines)
