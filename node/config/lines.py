"""Which line of a TOML document each key stands on; ``tomllib`` does not tell.

Only for text that ``tomllib`` has accepted: the scan trusts the grammar and looks at nothing but structure.
A path is a tuple of keys and, inside arrays of tables and inline tables in arrays, positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Path = tuple[str | int, ...]

BLANK = " \t\r\n"
END_OF_SCALAR = ",]}#\n"
ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}
HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}


def key_lines(text: str) -> dict[Path, int]:
    """Line numbers from 1 by path; a table is where it is first named."""
    scan = _Scan(text.replace("\r\n", "\n"))
    scan.document()
    return scan.lines


@dataclass(slots=True)
class _Scan:
    text: str
    position: int = 0
    lines: dict[Path, int] = field(default_factory=dict)
    counts: dict[Path, int] = field(default_factory=dict)  # elements seen of each [[array]]
    line: int = 1
    line_counted_to: int = 0

    def document(self) -> None:
        table: Path = ()
        self.blank()
        while self.position < len(self.text):
            if self.peek() == "[":
                table = self.header()
            else:
                self.pair(table)
            self.blank()

    def header(self) -> Path:
        is_array = self.text.startswith("[[", self.position)
        self.position += 2 if is_array else 1
        keys = self.dotted("]")
        self.position += 2 if is_array else 1
        path = self.resolve(keys[:-1])
        here = (*path, keys[-1])
        if is_array:
            self.counts[here] = self.counts.get(here, -1) + 1
            self.note(here)
            here = (*here, self.counts[here])
        else:
            here = self.resolve((keys[-1],), path)
        self.note(here)
        return here

    def resolve(self, keys: tuple[str, ...], base: Path = ()) -> Path:
        """A name that stands for an array of tables means its last element."""
        path = base
        for key in keys:
            path = (*path, key)
            self.note(path)
            if path in self.counts:
                path = (*path, self.counts[path])
        return path

    def pair(self, table: Path) -> None:
        path = table
        for key in self.dotted("="):
            path = (*path, key)
            self.note(path)
        self.position += 1
        self.blank()
        self.value(path)

    def value(self, path: Path) -> None:
        opening = self.peek()
        if opening in ("'", '"'):
            self.string()
        elif opening == "[":
            self.array(path)
        elif opening == "{":
            self.inline_table(path)
        else:
            self.skip_to(END_OF_SCALAR)

    def array(self, path: Path) -> None:
        self.position += 1
        index = 0
        self.blank()
        while self.peek() not in ("]", ""):
            self.note((*path, index))
            self.value((*path, index))
            index += 1
            self.blank(",")
        self.position += 1

    def inline_table(self, path: Path) -> None:
        self.position += 1
        self.blank()
        while self.peek() not in ("}", ""):
            self.pair(path)
            self.blank(",")
        self.position += 1

    def dotted(self, end: str) -> tuple[str, ...]:
        """The keys up to, not including, ``end``."""
        keys: list[str] = []
        self.blank()
        while self.peek() not in (end, ""):
            if self.peek() in ("'", '"'):
                keys.append(self.string())
            else:
                start = self.position
                self.skip_to(f". \t{end}\n")
                keys.append(self.text[start : self.position])
            self.blank(".")
        return tuple(keys)

    def string(self) -> str:
        quote = self.peek()
        if self.text.startswith(quote * 3, self.position):
            self.long_string(quote)
            return ""  # a key is never a multi-line string
        self.position += 1
        characters: list[str] = []
        while self.peek() not in (quote, ""):
            is_escape = quote == '"' and self.peek() == "\\"
            characters.append(self.escape() if is_escape else self.take())
        self.position += 1
        return "".join(characters)

    def long_string(self, quote: str) -> None:
        self.position += 3
        while self.position < len(self.text) and not self.text.startswith(quote * 3, self.position):
            self.position += 2 if quote == '"' and self.peek() == "\\" else 1
        while self.peek() == quote:  # up to two quotes may stand before the closing three
            self.position += 1

    def escape(self) -> str:
        self.position += 1
        letter = self.take()
        if letter in ESCAPES:
            return ESCAPES[letter]
        digits = self.text[self.position : self.position + HEX_ESCAPES.get(letter, 0)]
        self.position += len(digits)
        return chr(int(digits, 16))

    def take(self) -> str:
        self.position += 1
        return self.text[self.position - 1]

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def blank(self, also: str = "") -> None:
        """Skip white space, line ends, comments and the characters in ``also``."""
        skipped = BLANK + also
        while (character := self.peek()) and (character in skipped or character == "#"):
            if character == "#":
                self.skip_to("\n")
            else:
                self.position += 1

    def skip_to(self, stops: str) -> None:
        while self.position < len(self.text) and self.text[self.position] not in stops:
            self.position += 1

    def note(self, path: Path) -> None:
        self.line += self.text.count("\n", self.line_counted_to, self.position)
        self.line_counted_to = self.position
        self.lines.setdefault(path, self.line)
