"""Mutated profiles through `ftcore check`: does anything but a clean message and its exit code ever come out?

    python benchmarks/profile_fuzz.py 10000 --seed 1

Takes the shipped profiles apart (bytes, lines, keys, values, depth, size, letters) and checks each result in this
process. A case is a violation when an exception escapes, the exit code is neither 0 nor 2 (3 would mean that
a setting broke a built-in plugin), a rejected profile has no message, or the check takes over a second of
processor time. Prints every violation with a file that repeats it, then a summary; exits 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from ftcore.cli import main as ftcore

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 1.0
CLEAN = (0, 2)

NASTY_TEXTS = (
    *("", " ", ".", "..", "/", "~", "~nobody/x", "/dev/zero", "/dev/null", "/proc/self/mem", "file:///etc/passwd"),
    *("a/b", "../../x", "-", "--help", "%s%n", "${HOME}", "{x}", "[red]", "\u202e", "\u0000", "\ud7ff", "\U0001f600"),
    *("\u00e9" * 130, "x" * 300, "x" * 5000, "/x" * 3000, "true", "1e5", "nan", "None", "\n", "\x1b[2J", "auto", "cpu"),
)
NASTY_VALUES = (
    *("true", "false", "0", "-1", "1", "1.5", "1e-400", "1e400", "nan", "-nan", "inf", "-inf", "0x" + "f" * 5000),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 4400, "0b1", "0o7", "1_000", "+1"),
    *("[]", "{}", "[[]]", "[1, 'a', {}]", "{a = 1}", "{a.b.c = 1}", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"),
    *("''", '""', '""""""', "''''''", '"\\u0000"', '"\\ud800"', "[true, false]", "[nan]", '["all-linear", "x"]'),
)
NASTY_LETTERS = "\u0000\u0007\u0085\u00a0\u00df\u0130\u200b\u202e\u2028\ufeff\uffff\U0001f600\x1b\r\t\"'\\=[]{}#.,"


def _flip(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    found = bytearray(text)
    for _ in range(draw.randint(1, 4)):
        found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    return bytes(found)


def _span(text: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(text))
    return start, min(len(text), start + draw.choice((1, 2, 5, 20, 100)))


def _delete(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    start, end = _span(text, draw)
    return text[:start] + text[end:]


def _duplicate(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    start, end = _span(text, draw)
    place = draw.randrange(len(text))
    return text[:place] + text[start:end] * draw.choice((1, 2, 50)) + text[place:]


def _cut(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    return text[: draw.randrange(len(text))]


def _letters(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    place = draw.randrange(len(text))
    letters = "".join(draw.choice(NASTY_LETTERS) for _ in range(draw.randint(1, 3)))
    return text[:place] + letters.encode("utf-8", "surrogatepass") + text[place:]


def _lines(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    lines = text.split(b"\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    action = draw.choice(("swap", "twice", "drop", "shuffle"))
    if action == "swap":
        lines[one], lines[other] = lines[other], lines[one]
    elif action == "twice":
        lines.insert(other, lines[one])
    elif action == "drop":
        del lines[one]
    else:
        draw.shuffle(lines)
    return b"\n".join(lines)


def _splice(text: bytes, draw: random.Random, corpus: Corpus) -> bytes:
    other = draw.choice(corpus.texts)
    return text[: draw.randrange(len(text))] + other[draw.randrange(len(other)) :]


def _assignments(text: bytes) -> list[int]:
    return [number for number, line in enumerate(text.split(b"\n")) if b" = " in line]


def _quoted(text: str) -> str:
    """A TOML string; what TOML allows in none is escaped."""
    letters = (letter if letter.isprintable() and letter not in '"\\' else f"\\u{ord(letter):04x}" for letter in text)
    return f'"{"".join(letters)}"'


def _value(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    """One key gets a value of another kind."""
    lines, places = text.split(b"\n"), _assignments(text)
    if not places:
        return text
    value = draw.choice((draw.choice(NASTY_VALUES), _quoted(draw.choice(NASTY_TEXTS))))
    place = draw.choice(places)
    lines[place] = lines[place].partition(b" = ")[0] + b" = " + value.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _known_key(text: bytes, draw: random.Random, corpus: Corpus) -> bytes:
    """A real option, under its table or under another one, with any value."""
    table, key = draw.choice(corpus.keys)
    if draw.random() < 0.2:
        table = draw.choice(corpus.keys)[0]
    value = draw.choice((draw.choice(NASTY_VALUES), _quoted(draw.choice(NASTY_TEXTS))))
    line = f"{table}.{key} = {value}\n".encode("utf-8", "surrogatepass")
    without = [found for found in text.split(b"\n") if not found.startswith(key.encode() + b" = ")]
    return line + b"\n".join(without)


def _fitting(text: bytes, draw: random.Random, corpus: Corpus) -> bytes:
    """Options of tables that are there get values of the right type, so that the plugins' own checks are asked."""
    try:
        tables = tomllib.loads(text.decode())
    except ValueError:
        return text
    on = [
        (table, key) for table, key in corpus.kinds if table.removeprefix("plugin.") in {**tables, **_plugins(tables)}
    ]
    for table, key in draw.sample(on, min(len(on), draw.randint(1, 4))):
        kind = corpus.kinds[table, key]
        choices = [part.strip('"') for part in kind.split(" or ") if part.startswith('"')] or FITTING.get(kind, ("x",))
        place = _plugins(tables) if table.startswith("plugin.") else tables
        found = place[table.removeprefix("plugin.")]
        if isinstance(found, dict):
            found[key] = draw.choice(choices)
    return tomli_w.dumps(tables).encode()


def _plugins(tables: Mapping[str, Any]) -> dict[str, Any]:
    found = tables.get("plugin", {})
    return found if isinstance(found, dict) else {}


FITTING: Mapping[str, Sequence[Any]] = {
    "integer": (0, 1, 2, 7, 64, 10**9, 2**63 - 1, -1),
    "number": (0, 1e-9, 0.5, 1, 3, 1e9, 1e300),
    "boolean": (True, False),
    "string": ("", "x", "a/b", "..", "/", "auto", "cpu", "x" * 200, "\u00fc"),
    "path": ("", "x", "a/b", "..", "/", "/dev/null", "/dev/zero", "/proc/1/mem", str(ROOT), __file__),
    "list of string": ([], ["x"], ["json", "x"], ["all-linear"], [""], ["y"] * 300, ["[red]", "\x1b"]),
}


def _key(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    """One key, or a table's name, is misspelt."""
    lines = text.split(b"\n")
    places = [n for n, line in enumerate(lines) if line[:1].isalpha() or line.startswith(b"[")]
    if not places:
        return text
    place = draw.choice(places)
    line = bytearray(lines[place])
    at = draw.randrange(max(1, len(line.split(b"=")[0].strip())))
    line[at : at + 1] = draw.choice((b"", b"x", b"_", b".", b'"', bytes(line[at : at + 1]) * 2))
    lines[place] = bytes(line)
    return b"\n".join(lines)


def _deep(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    depth = draw.choice((5, 15, 16, 17, 100, 3000))
    kind = draw.randrange(5)
    nest = (
        f"deep = {'[' * depth}{']' * depth}\n",
        f"deep = {'{a=' * depth}1{'}' * depth}\n",
        f"{'.'.join('a' * depth)} = 1\n",
        f"train.max_steps = {'[' * depth}\n",
        f"plugin.lora.{'.'.join('a' * depth)} = 1\n",
    )[kind]
    return nest.encode() + text if draw.random() < 0.5 else text + b"\n" + nest.encode()


def _large(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    size = draw.choice((200, 5_000, 100_000, 300_000))
    kind = draw.randrange(6)
    bulk = (
        f'run.name = "{"x" * size}"\n',
        f"{'k' * size} = 1\n",
        f"# {'x' * size}\n",
        "".join(f"key{n} = {n}\n" for n in range(size // 12)),
        f"run.seed = [{'1,' * (size // 2)}]\n",
        "".join(f"[t{n}]\n" for n in range(size // 8)),
    )[kind]
    return bulk.encode() + text if draw.random() < 0.5 else text + b"\n" + bulk.encode()


def _encoding(text: bytes, draw: random.Random, _: Corpus) -> bytes:
    return draw.choice(
        (
            text.decode().encode("utf-16"),
            b"\xef\xbb\xbf" + text,
            text.replace(b"\n", b"\r\n"),
            text.replace(b"\n", b"\r"),
            text + b"\xff\xfe",
            b"\x00" + text,
        )
    )


Mutation = Callable[[bytes, random.Random, "Corpus"], bytes]
MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _delete, _duplicate, _cut, _letters, _lines, _splice, _key, _deep, _large, _encoding),
    *(_value, _value, _known_key, _known_key, *[_fitting] * 6),  # what passes the parser finds more
)


@attrs.frozen
class Corpus:
    """The shipped profiles, and every option by table."""

    quickstart: bytes
    texts: tuple[bytes, ...]
    kinds: Mapping[tuple[str, str], str]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Every table and option."""
        return list(self.kinds)


def read_corpus() -> Corpus:
    """Read the shipped profiles and the options of core and of every installed plugin."""
    from ftcore.discovery import config_class, discover
    from ftcore.options import options_of
    from ftcore.preflight import CORE_TABLES

    files = sorted([*ROOT.glob("profiles/*.toml"), *ROOT.glob("hardware_profiles/*.toml")])
    installed = discover()
    tables = {f"plugin.{name}": config_class(installed.find(name).load()) for name in installed.names}
    tables.update(CORE_TABLES)
    kinds = {(table, option.name): option.type_name for table, cls in tables.items() for option in options_of(cls)}
    quickstart = ROOT / "profiles" / "quickstart.toml"
    return Corpus(quickstart.read_bytes(), tuple(file.read_bytes() for file in files), kinds)


@attrs.define
class Summary:
    """What came out."""

    cases: int = 0
    valid: int = 0
    rejected: int = 0
    slowest: float = 0.0
    violations: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        return (
            f"{self.cases} cases: {self.valid} valid, {self.rejected} rejected, {len(self.violations)} violations; "
            f"slowest {self.slowest * 1000:.0f} ms"
        )


def fuzz(cases: int, seed: int, folder: Path) -> Summary:
    """Check `cases` mutated profiles in `folder`, where the ones that violate a promise are kept."""
    corpus, summary, draw = read_corpus(), Summary(), random.Random(seed)
    with contextlib.chdir(folder):
        # What Python and the plugins do once in a process is not the first case's fault.
        (folder / "warm.toml").write_bytes(corpus.texts[0])
        _check(["check", "warm.toml"])
        for number in range(cases):
            path = folder / f"case-{number}.toml"
            path.write_bytes(_mutated(corpus, draw))
            arguments = ["check", str(path), *_overrides(draw, corpus)]
            start = time.process_time()
            code, said = _check(arguments)
            seconds = time.process_time() - start
            _count(summary, code, said, seconds, arguments)
            if not (summary.violations and summary.violations[-1].startswith(str(path))):
                path.unlink()
    return summary


def _mutated(corpus: Corpus, draw: random.Random) -> bytes:
    # The quickstart runs anywhere, so that what is checked after the parser is reached, too.
    text = corpus.quickstart if draw.random() < 0.6 else draw.choice(corpus.texts)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        with contextlib.suppress(ValueError, RecursionError):
            text = draw.choice(MUTATIONS)(text or b"\n", draw, corpus)
    return text


def _overrides(draw: random.Random, corpus: Corpus) -> Iterator[str]:
    if draw.random() < 0.2:
        table, key = draw.choice(corpus.keys)
        # An argument of a process holds no null character.
        value = draw.choice((*NASTY_VALUES, *NASTY_TEXTS)).replace("\0", "")
        yield f"--set={table}.{key}={value}"
    if draw.random() < 0.05:
        yield f"--with={draw.choice(corpus.keys)[0].removeprefix('plugin.')}"
    if draw.random() < 0.02:
        yield f"--without={draw.choice(corpus.keys)[0].removeprefix('plugin.')}"


def _check(arguments: list[str]) -> tuple[int | str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | str = ftcore(arguments)
        except BaseException as error:
            code = f"{type(error).__name__} escaped: {error}"
            if isinstance(error, KeyboardInterrupt):
                raise
    return code, err.getvalue()


def _count(summary: Summary, code: int | str, said: str, seconds: float, arguments: list[str]) -> None:
    summary.cases += 1
    summary.valid += code == 0
    summary.rejected += code == 2
    summary.slowest = max(summary.slowest, seconds)
    faults = [] if code in CLEAN else [f"exit code {code}: {said.strip()[-300:]}"]
    faults += ["rejected without a message"] if code == 2 and not said.strip() else []
    faults += ["a traceback"] if "Traceback" in said else []
    faults += [f"{seconds:.1f} s"] if seconds > SECONDS else []
    if faults:
        summary.violations.append(f"{arguments[1]} {' '.join(map(repr, arguments[2:]))}: {'; '.join(faults)}")


def main() -> int:
    """Fuzz, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ftcore-fuzz-"))
    summary = fuzz(parsed.cases, parsed.seed, folder)
    for violation in summary.violations:
        print(violation, file=sys.stderr)
    print(summary)
    if summary.violations:
        return 1
    (folder / "warm.toml").unlink()
    os.rmdir(folder)  # noqa: PTH106
    return 0


if __name__ == "__main__":
    sys.exit(main())
