#!/usr/bin/env python3
"""Holds the code to docs/conformance.toml, which has every normative statement of MQTT 5.0 and 3.1.1.

A statement is met: it is cited at the code and at a test. Or it is the client's duty. Or its case does not arise here,
which a test shows. Or it is an exception, with its reason and the test that shows what happens instead. Whatever is
none of these, is cited at one end only, or names a test that does not exist, is an error, and so is a citation of a
statement that does not exist.

Without arguments it says whether that is so, and whether the lists of files below the statements are those of the
code; with --write it brings the lists there. What stands above them is written by hand and is left as it is.

A statement is cited as [MQTT-3.1.4-3], also [MQTT-4.6.0-2, -3], in a comment at the code; in a comment of a test or in
its name, as mqtt_3_1_4_3_the_newcomer_wins; or through a `Violation`, whose clause is in codec/src/violation.rs. Those
that only 3.1.1 has are [MQTT-3.1.2-22 of 3.1.1] and mqtt_311_3_1_2_22_a_password_needs_a_user_name.
"""

import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "conformance.toml"
BEGIN = "# Made by scripts/conformance.py --write from what the code cites. Below this line nothing is written by hand.\n"

OF_311 = " of 3.1.1"
CITATION = re.compile(r"\[(MQTT-\d[\d.]*-\d+)((?:, (?:MQTT-[\d.]+)?-\d+)*)( of 3\.1\.1)?\]")
TEST_NAME = re.compile(r"fn mqtt_(311_)?(\d+)_(\d+)_(\d+)_(\d+)_")
VIOLATION = re.compile(r"Violation::([A-Z]\w+)")
CLAUSE_OF_VIOLATION = re.compile(r"Self::(\w+)[^=\n]*=> \"(MQTT-[\d.]+-\d+(?: of 3\.1\.1)?)\"")
# Where the tests of a file begin. What else is there for tests only, such as a constructor, is code.
TESTS = re.compile(r"^#\[cfg\(test\)\]\n(?:#\[[^\n]*\n)*mod \w*tests\b", re.MULTILINE)
# Who plays a client, or measures, is neither the code nor a test of it.
NOT_OURS = ("examples", "benches", "fuzz")


def cited(text):
    for first, others, of_311 in CITATION.findall(text):
        yield first + of_311
        for other in re.findall(r"(MQTT-[\d.]+)?-(\d+)", others):
            yield f"{other[0] or first.rsplit('-', 1)[0]}-{other[1]}{of_311}"


def sources():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.rs"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    is_ours = lambda path: (ROOT / path).is_file() and not set(NOT_OURS) & set(Path(path).parts)
    return sorted(path for path in set(listed) if is_ours(path))


def collect():
    """Where each clause is done and where it is tested."""
    violations = dict(CLAUSE_OF_VIOLATION.findall((ROOT / "codec/src/violation.rs").read_text()))
    done, tested = defaultdict(set), defaultdict(set)
    for path in sources():
        text = (ROOT / path).read_text()
        is_test = any(part.endswith("tests") for part in Path(path).with_suffix("").parts)
        code, tests = ("", text) if is_test else (TESTS.split(text, maxsplit=1) + [""])[:2]
        for part, where in ((code, done), (tests, tested)):
            for clause in cited(part):
                where[clause].add(path)
            for of_311, *numbers in TEST_NAME.findall(part):
                tested["MQTT-{}.{}.{}-{}".format(*numbers) + (OF_311 if of_311 else "")].add(path)
            for variant in VIOLATION.findall(part):
                if variant in violations:
                    where[violations[variant]].add(path)
    return done, tested


def is_test(name):
    """Whether there is a test of this name, `path/to/file.rs::function`."""
    path, _, function = name.partition("::")
    test = rf"#\[(?:tokio::)?test[^\n]*\n(?:\s*#\[[^\n]*\n)*\s*(?:async )?fn {function}\("
    return (ROOT / path).is_file() and re.search(test, (ROOT / path).read_text()) is not None


def statements(book):
    """Every statement that needs something here, with what is said of it: those of 5.0, and those that only 3.1.1 has."""
    table = book.get("statements", {})
    return dict(table.get("mqtt-5", {})) | {name + OF_311: said for name, said in table.get("mqtt-3-1-1", {}).items()}


def problems_of_exception(name, exception):
    missing = {"clause", "instead", "reason", "test"} - set(exception)
    if missing:
        yield f"the exception of {name} lacks {', '.join(sorted(missing))}"
    elif not is_test(exception["test"]):
        yield f"the exception of {name} names no test that exists: {exception['test']}"


def kind_of(name, said, is_exception):
    if is_exception:
        return "exception"
    return "server" if isinstance(said, str) else next(iter(set(said) & {"client", "void", "as"}), "unknown")


def problems_of_statement(name, said, kind, known, done, tested):
    if kind == "server":
        if not done.get(name):
            yield f"{name} is not cited at the code: {said}"
        if not tested.get(name):
            yield f"{name} is not cited at a test: {said}"
    elif kind == "void":
        if not {"because", "test"} <= set(said):
            yield f"{name} does not arise, and lacks because or test"
        elif not is_test(said["test"]):
            yield f"{name} names no test that exists: {said['test']}"
    elif kind == "as":
        for other in said["as"]:
            if not isinstance(known.get(other), str) or other.endswith(OF_311):
                yield f"{name} is said to be {other}, which is no statement of 5.0 that a server meets"
    elif kind == "unknown":
        yield f"{name} is neither a sentence nor client, void or as"


def problems(book, done, tested, kinds):
    """What is wrong, and how many statements there are of each kind."""
    known = statements(book)
    exceptions = {exception.get("clause", "?"): exception for exception in book.get("exceptions", [])}
    for name, exception in exceptions.items():
        yield from problems_of_exception(name, exception)
    for name in sorted((set(done) | set(tested) | set(exceptions)) - set(known), key=order):
        yield f"{name} is cited, and is no statement: {', '.join(sorted(done[name] | tested[name]))}"
    for name, said in known.items():
        kind = kind_of(name, said, name in exceptions)
        kinds[kind] += 1
        if kind == "as" and done[name] | tested[name]:
            yield f"{name} is cited by itself and said to be {', '.join(said['as'])}"
        yield from problems_of_statement(name, said, kind, known, done, tested)


def order(clause):
    return [int(number) for number in re.findall(r"\d+", clause)]


def as_list(paths):
    return "[" + ", ".join(f'"{path}"' for path in sorted(paths)) + "]"


def render(done, tested):
    lines = [BEGIN]
    for clause in sorted(set(done) | set(tested), key=order):
        lines += [f'\n[clauses."{clause}"]', f"done = {as_list(done[clause])}", f"tested = {as_list(tested[clause])}"]
    return "\n".join(lines) + "\n"


def main():
    done, tested = collect()
    text = FILE.read_text()
    by_hand, _, _ = text.partition(BEGIN)
    wanted = by_hand + render(done, tested)
    kinds = Counter()
    found = list(problems(tomllib.loads(wanted), done, tested, kinds))
    if "--write" in sys.argv[1:]:
        FILE.write_text(wanted)
    elif text != wanted:
        found.append("docs/conformance.toml is not in step with the code: make conformance")
    for problem in found:
        print(f"conformance: {problem}", file=sys.stderr)
    print(
        f"conformance: {sum(kinds.values())} statements: {kinds['server']} cited at code and test, {kinds['as']} of 3.1.1 "
        f"as one of 5.0, {kinds['client']} of clients, {kinds['void']} that do not arise, {kinds['exception']} exceptions"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
