"""From the text of a script to something that runs: names, arguments and extensions are checked here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain as prepend

from . import registry
from .bound import Bound, bind
from .comparators import BUILT_IN
from .control import chain
from .errors import MAX_ERRORS, BadScript, Misplaced, RunFault, ScriptErrors
from .grammar import parse
from .phrases import MAX_CAPTURES, BadText, Constant, Phrase, Template, decode_characters, phrase
from .regexsyntax import BadPattern
from .run import Run
from .script import IncludeName, Script
from .skipping import Block, Needs, passing_over
from .source import Source, misread
from .spec import Command, Do, Holds, Row, Test, Tests
from .tree import Command as CommandNode
from .tree import Tag, Text, Texts
from .tree import Test as TestNode

# Nothing behind them in their block runs.
ENDING = frozenset({"stop", "return", "break", "error"})
# Matches of these leave captures behind (RFC 5229 §3.2).
CAPTURING = frozenset({"matches", "regex"})
# A hundred times the usual limit of an upload.
MAX_SCRIPT_BYTES = 4 * 1024 * 1024
# Of all regular expressions of a script, see ``Program.cost``: some 5,000 usual ones. The largest single ones
# take 40 ms or 1 MB, so that 16 KB of script could hold seconds of work and several 100 MB without this.
MAX_PATTERN_COST = 250_000


def compile(script: bytes, *, extensions: Collection[str] | None = None) -> Script | ScriptErrors:
    """``extensions`` are the names that scripts may require; None: all there are.

    Never raises. Linear in the script; 10,000 rules take less than a second, and so do the worst patterns
    that are taken (``MAX_PATTERN_COST``).
    """
    try:
        if len(script) > MAX_SCRIPT_BYTES:
            raise BadScript(0, f"the script is larger than {MAX_SCRIPT_BYTES} octets")
        source = Source(script)
    except BadScript as mistake:
        return ScriptErrors((misread(script, mistake),))
    allowed = registry.NAMES if extensions is None else registry.NAMES.intersection(extensions)
    return Compiler(source, frozenset(allowed)).compile()


class _TooManyErrors(Exception):
    pass


class Compiler:
    """One script under way. ``build`` functions reach it as ``Bound.compiler``."""

    def __init__(self, source: Source, allowed: frozenset[str]) -> None:
        self.source = source
        self.allowed = allowed
        self.required: set[str] = set()
        self.globals: set[str] = set()
        self.includes: list[IncludeName] = []
        self.loops: list[str | None] = []  # names of the foreverypart around the command at hand
        self._mistakes: list[BadScript] = []
        self._doubts: list[BadScript] = []
        self._uses_captures = False
        self._defers = False  # ihave has been seen: what is unknown fails at run time only
        self._rows: dict[str, dict[str, Row]] = {}
        self._needs: dict[Holds, Needs] = {}
        self._traces: set[Holds] = set()  # tests that leave some where they hold or are asked
        self._pattern_cost = 0

    def compile(self) -> Script | ScriptErrors:
        try:
            block = self._script(parse(self.source.text))
        except BadScript as mistake:
            self._mistakes.append(mistake)
        except _TooManyErrors:
            pass
        if self._mistakes:
            found = sorted(self._mistakes, key=lambda mistake: mistake.offset)
            return ScriptErrors(tuple(map(self.source.error, found)))
        return Script(
            block.run,
            frozenset(self.required),
            tuple(dict.fromkeys(self.includes)),
            self._uses_captures,
            self._warnings(),
            block.idles,
        )

    def warn(self, offset: int, text: str) -> None:
        """Of what compiles and is hardly meant."""
        if len(self._doubts) < MAX_ERRORS:
            self._doubts.append(BadScript(offset, text))

    def _warnings(self) -> tuple[str, ...]:
        misfits = ", ".join(sorted(self.required & registry.ONLY_AT_DELIVERY))
        if misfits and "imapsieve" in self.required:
            self.warn(
                0, f"on events (imapsieve) this script fails: {misfits} is for mail that is being delivered"
            )
        self._doubts.sort(key=lambda doubt: doubt.offset)
        return tuple(str(self.source.error(doubt)) for doubt in self._doubts)

    def _note(self, mistake: BadScript) -> None:
        self._mistakes.append(mistake)
        if len(self._mistakes) >= MAX_ERRORS:
            raise _TooManyErrors

    def _script(self, commands: Iterator[CommandNode]) -> Block:
        for node in commands:
            if node.name != "require":
                return passing_over(self._steps(prepend((node,), commands)), is_script=True)
            self._attempt_require(node)
        return passing_over((), is_script=True)

    def _attempt_require(self, node: CommandNode) -> None:
        try:
            self._require(node)
        except BadScript as mistake:
            self._note(mistake)

    # --- extensions ---

    def _require(self, node: CommandNode) -> None:
        """RFC 5228 §3.2."""
        argument = node.arguments[0] if len(node.arguments) == 1 else None
        if not isinstance(argument, Text | Texts) or node.tests or node.block is not None:
            raise BadScript(node.offset, '"require" takes one string list')
        for text in [argument] if isinstance(argument, Text) else argument.items:
            if not self.may_require(text.value):
                raise BadScript(text.offset, f'the extension "{text.value[:60]}" is not available')
            self.enable(text.value)

    def may_require(self, extension: str) -> bool:
        return extension in self.allowed or extension in registry.ALWAYS

    def enable(self, extension: str) -> None:
        self.required.add(extension)
        self._rows.clear()
        for name in registry.IMPLIED.get(extension, ()):
            self.enable(name)

    def has(self, extension: str) -> bool:
        return extension in self.required

    def has_comparator(self, name: str) -> bool:
        return name in BUILT_IN or f"comparator-{name}" in self.required

    def defer_unknown(self) -> None:
        """RFC 5463 §4: what an extension that is not there would bring is no error of the text."""
        self._defers = True

    def rows_of(self, row: Command | Test) -> dict[str, Row]:
        """The tags that may be given now, by name."""
        found = self._rows.get(row.name)
        if found is None:
            every = (*row.tags, *registry.TAGS.get(row.name, ()))
            found = {tag.name: tag for tag in every if not tag.extension or tag.extension in self.required}
            self._rows[row.name] = found
        return found

    def unknown_tag(self, row: Command | Test, tag: Tag) -> BadScript:
        every = (*row.tags, *registry.TAGS.get(row.name, ()))
        lacking = [each.extension for each in every if each.name == tag.name]
        if lacking:
            return BadScript(tag.offset, f':{tag.name} needs require "{lacking[0]}"')
        return BadScript(tag.offset, f'"{row.name}" has no argument :{tag.name[:60]}')

    def spend_on_patterns(self, cost: int) -> None:
        """Raises BadPattern."""
        self._pattern_cost += cost
        if self._pattern_cost > MAX_PATTERN_COST:
            raise BadPattern("those of the script are too large together")

    def _lookup(self, table: dict[str, registry.Found], name: str, offset: int, what: str) -> registry.Found:
        found = table.get(name)
        if found is None:
            raise BadScript(offset, f'there is no {what} "{name[:60]}"')
        if found.extensions and self.required.isdisjoint(found.extensions):
            raise BadScript(offset, f'"{name}" needs require "{found.extensions[0]}"')
        return found

    # --- strings ---

    def phrase(self, text: Text) -> Phrase:
        """Raises BadScript."""
        value = text.value
        if "${" not in value:
            return Constant(value)
        if "encoded-character" in self.required:
            try:
                value = decode_characters(value)
            except BadText as error:
                raise BadScript(text.offset, str(error)) from None
        if "variables" not in self.required:
            return Constant(value)
        found = phrase(value)
        if isinstance(found, Template):
            self._check_names(found, text.offset)
        return found

    def _check_names(self, template: Template, offset: int) -> None:
        for name in template.names:
            if name[0].isdigit():
                if len(name) > 3 or int(name) > MAX_CAPTURES:
                    raise BadScript(offset, f"there is no match variable ${{{name[:20]}}}")
                self._uses_captures = True
            elif "." in name and not (name.startswith("global.") and self.has("include")):
                raise BadScript(offset, f"there is no namespace for ${{{name[:60]}}}")

    # --- commands and tests ---

    def sequence(self, nodes: Iterable[CommandNode]) -> Do:
        """The commands of a block; mistakes are noted."""
        return passing_over(self._steps(nodes)).run

    def _steps(self, nodes: Iterable[CommandNode]) -> list[tuple[Do, Needs | None]]:
        """Mistakes are noted, so that one look shows several."""
        steps: list[tuple[Do, Needs | None]] = []
        ended_by = ""
        for group in _if_chains(nodes):
            if ended_by:
                self.warn(group[0].offset, f'this is never reached: "{ended_by}" stands before it')
            ended_by = group[0].name if group[0].name in ENDING else ""
            try:
                steps.append(self._step(group))
            except BadScript as mistake:
                self._note(mistake)
        return steps

    def _step(self, nodes: list[CommandNode]) -> tuple[Do, Needs | None]:
        if nodes[0].name == "if":
            branches = [self._branch(node) for node in nodes]
            return chain(branches), self.needs_of_any([condition for condition, _, _ in branches])
        try:
            return self._command(nodes[0]), None
        except BadScript as mistake:
            if not self._defers or isinstance(mistake, Misplaced):
                raise
            return _failing(self._explained(mistake)), None

    def _explained(self, mistake: BadScript) -> str:
        return str(self.source.error(mistake))

    def _branch(self, node: CommandNode) -> tuple[Holds | None, Do, int]:
        """Of an if chain: condition (None for else), block, line."""
        wants_test = node.name != "else"
        if node.arguments or node.has_list or len(node.tests) != wants_test or node.block is None:
            what = "one test and a block" if wants_test else "a block"
            raise BadScript(node.offset, f'"{node.name}" takes {what}')
        condition = self.test(node.tests[0]) if wants_test else None
        return condition, self.sequence(node.block), self.source.position(node.offset)[0]

    def _command(self, node: CommandNode) -> Do:
        if node.name == "require":
            raise BadScript(node.offset, '"require" stands before all other commands')
        if node.name in ("elsif", "else"):
            raise BadScript(node.offset, f'"{node.name}" without "if"')
        row = self._lookup(registry.COMMANDS, node.name, node.offset, "command").row
        assert isinstance(row, Command)
        if node.tests:
            raise BadScript(node.offset, f'"{node.name}" takes no test')
        if (node.block is not None) is not row.has_block:
            raise BadScript(node.offset, f'"{node.name}" takes {"a" if row.has_block else "no"} block')
        bound = bind(self, row, node.offset, node.arguments)
        if node.block is not None:
            self.loops.append(bound.tag_constant("name"))
            bound.block = self.sequence(node.block)
            self.loops.pop()
        return _placed(row.build(bound), bound.line)

    def test(self, node: TestNode) -> Holds:
        """Raises BadScript."""
        row = self._lookup(registry.TESTS, node.name, node.offset, "test").row
        assert isinstance(row, Test)
        _check_tests(row, node)
        bound: Bound = bind(self, row, node.offset, node.arguments)
        bound.tests = [self.test(inner) for inner in node.tests]
        holds = row.build(bound)
        if bound.needs is not None:
            self._needs[holds] = bound.needs
        if row.leaves_trace or _captures(node) or not self._traces.isdisjoint(bound.tests):
            self._traces.add(holds)
        return holds

    def needs_of_any(self, tests: Sequence[Holds | None]) -> Needs | None:
        """None, which stands for ``else`` too: it may hold whatever the fields say."""
        every = [None if test is None else self._needs.get(test) for test in tests]
        known = [needs for needs in every if needs is not None]
        return tuple(need for needs in known for need in needs) if len(known) == len(every) else None

    def needs_of_one(self, tests: Sequence[Holds]) -> Needs | None:
        """Where all of them have to hold. They are asked in their order, so behind one that leaves traces and
        may hold with any message nothing can be passed over."""
        for test in tests:
            if test in self._needs:
                return self._needs[test]
            if test in self._traces:
                return None
        return None


def _if_chains(nodes: Iterable[CommandNode]) -> Iterator[list[CommandNode]]:
    """Each ``if`` with its ``elsif`` and ``else``, all other commands alone."""
    group: list[CommandNode] = []
    for node in nodes:
        if node.name in ("elsif", "else") and group and group[0].name == "if" and group[-1].name != "else":
            group.append(node)
            continue
        if group:
            yield group
        group = [node]
    if group:
        yield group


def _captures(node: TestNode) -> bool:
    return any(isinstance(each, Tag) and each.name in CAPTURING for each in node.arguments)


def _check_tests(row: Test, node: TestNode) -> None:
    if row.tests is Tests.NONE:
        fits = not node.tests
    else:
        fits = node.has_list if row.tests is Tests.MANY else len(node.tests) == 1 and not node.has_list
    if not fits:
        raise BadScript(node.offset, f'"{node.name}" takes {row.tests.value}')


def failing(text: str) -> Script:
    """In place of a script that cannot be had: a fault when its turn comes."""
    return Script(_failing(text), frozenset())


def _failing(text: str) -> Do:
    def run(run: Run) -> None:
        raise RunFault(text, 0)

    return run


def _placed(do: Do, line: int) -> Do:
    """A command whose faults name its line."""

    def run(run: Run) -> None:
        try:
            do(run)
        except RunFault as fault:
            fault.at(line)
            raise

    return run
