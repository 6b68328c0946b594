"""The lab by hand: ``python -m tests.lab`` builds it, starts the nodes and takes commands; Ctrl-D ends it."""

from __future__ import annotations

import argparse
import cmd
import signal
import sys
import time

from .lab import ADDRESSES, NODES, PASSWORD_HINT, Lab, LabFault


class Prompt(cmd.Cmd):
    prompt = "lab> "

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self.lab = lab

    def onecmd(self, line: str) -> bool:
        try:
            return bool(super().onecmd(line))
        except (LabFault, KeyError, ValueError, TypeError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return False

    def emptyline(self) -> bool:
        return False

    def do_status(self, line: str) -> None:
        """status [NODE]: the cluster as that node sees it"""
        print(self.lab.program(line or "node-1", "node", "status", check=False))

    def do_cut(self, line: str) -> None:
        """cut A B: nothing passes from A to B; cut A: A is alone; * is any machine"""
        source, *rest = line.split()
        if rest:
            self.lab.cut(source, rest[0])
        else:
            self.lab.part([source], [name for name in ADDRESSES if name != source])

    def do_delay(self, line: str) -> None:
        """delay SECONDS [JITTER [A B]]: on all ways, or from A to B"""
        delay, *rest = line.split()
        self.lab.delay(float(delay), float(rest[0]) if rest else 0.0, *rest[1:])

    def do_drop(self, line: str) -> None:
        """drop SHARE [A B]: that share (0 to 1) of all frames, or of those from A to B, is lost"""
        share, *rest = line.split()
        self.lab.lose(float(share), *rest)

    def do_heal(self, _line: str) -> None:
        """heal: a good wire again"""
        self.lab.heal()

    def do_kill(self, line: str) -> None:
        """kill MACHINE: kill -9 of everything on it"""
        self.lab.kill(line)

    def do_pause(self, line: str) -> None:
        """pause MACHINE: SIGSTOP"""
        self.lab.signal(line, signal.SIGSTOP)

    def do_resume(self, line: str) -> None:
        """resume MACHINE: SIGCONT"""
        self.lab.signal(line, signal.SIGCONT)

    def do_stop(self, line: str) -> None:
        """stop MACHINE: in order"""
        self.lab.stop(line)

    def do_start(self, line: str) -> None:
        """start MACHINE"""
        self.lab.start(line)

    def do_node(self, line: str) -> None:
        """node NODE COMMAND ...: sora-node there, such as: node node-2 cluster members"""
        name, *rest = line.split()
        print(self.lab.program(name, "node", *rest, check=False))

    def do_admin(self, line: str) -> None:
        """admin NODE COMMAND ...: sora-admin there, such as: admin node-1 blocks add 192.0.2.9"""
        name, *rest = line.split()
        print(self.lab.program(name, "node.admin", *rest, check=False))

    def do_run(self, line: str) -> None:
        """run MACHINE PROGRAM ...: any program there, such as: run client curl -k imaps://10.10.10.40"""
        machine, *command = line.split()
        print(self.lab.run(machine, *command, check=False))

    def do_log(self, line: str) -> None:
        """log MACHINE: its last lines"""
        print(self.lab.log(line)[-3000:])

    def do_quit(self, _line: str) -> bool:
        """quit: everything ends and is removed"""
        return True

    def do_EOF(self, _line: str) -> bool:  # the name that cmd looks for
        """Ctrl-D: as quit"""
        return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of losses and jitter")
    arguments = parser.parse_args()
    begun = time.monotonic()
    try:
        with Lab(seed=arguments.seed) as lab:
            for name in NODES:
                lab.start(name)
            print(f"three nodes after {time.monotonic() - begun:.1f} s; files are in {lab.directory}")
            print(PASSWORD_HINT.format(password=lab.password))
            Prompt(lab).cmdloop("help lists the commands, Ctrl-D ends.")
    except LabFault as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
