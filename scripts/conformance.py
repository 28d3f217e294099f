#!/usr/bin/env python3
"""Keeps docs/conformance.toml in step with the clauses of the specification that the code cites.

Without arguments it says whether the file is in step; with --write it brings it there. What stands above the line
that begins the clauses is written by hand and is left as it is.

A clause is cited as [MQTT-3.1.4-3], also [MQTT-4.6.0-2, -3], in a comment at the code; in a comment of a test or in
its name, as mqtt_3_1_4_3_the_newcomer_wins; or through a `Violation`, whose clause is in codec/src/violation.rs.
"""

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "conformance.toml"
BEGIN = "# Made by scripts/conformance.py --write from what the code cites. Below this line nothing is written by hand.\n"

CITATION = re.compile(r"\[(MQTT-\d[\d.]*-\d+(?: of 3\.1\.1)?)((?:, (?:MQTT-[\d.]+)?-\d+)*)\]")
TEST_NAME = re.compile(r"fn mqtt_(\d+)_(\d+)_(\d+)_(\d+)_")
VIOLATION = re.compile(r"Violation::([A-Z]\w+)")
CLAUSE_OF_VIOLATION = re.compile(r"Self::(\w+)[^=\n]*=> \"(MQTT-[\d.]+-\d+)\"")


def cited(text):
    for first, others in CITATION.findall(text):
        yield first
        for other in re.findall(r"(MQTT-[\d.]+)?-(\d+)", others):
            yield f"{other[0] or first.rsplit('-', 1)[0]}-{other[1]}"


def sources():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.rs"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    return sorted(set(path for path in listed if (ROOT / path).is_file()))


def collect():
    """Where each clause is done and where it is tested."""
    violations = dict(CLAUSE_OF_VIOLATION.findall((ROOT / "codec/src/violation.rs").read_text()))
    done, tested = defaultdict(set), defaultdict(set)
    for path in sources():
        text = (ROOT / path).read_text()
        is_test = "tests" in Path(path).parts or Path(path).stem.endswith("tests")
        code, _, tests = ("", "", text) if is_test else text.partition("#[cfg(test)]")
        for part, where in ((code, done), (tests, tested)):
            for clause in cited(part):
                where[clause].add(path)
            for numbers in TEST_NAME.findall(part):
                tested["MQTT-{}.{}.{}-{}".format(*numbers)].add(path)
            for variant in VIOLATION.findall(part):
                if variant in violations:
                    where[violations[variant]].add(path)
    return done, tested


def is_test(name):
    """Whether there is a test of this name, `path/to/file.rs::function`."""
    path, _, function = name.partition("::")
    return (ROOT / path).is_file() and re.search(rf"^(async )?fn {function}\(", (ROOT / path).read_text(), re.M)


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
    exceptions = tomllib.loads(wanted).get("exceptions", [])
    for exception in exceptions:
        missing = {"clause", "instead", "reason", "test"} - set(exception)
        if missing:
            print(f"conformance: an exception lacks {', '.join(sorted(missing))}: {exception}", file=sys.stderr)
            return 1
        if not is_test(exception["test"]):
            print(f"conformance: there is no test {exception['test']}", file=sys.stderr)
            return 1
    if "--write" in sys.argv[1:]:
        FILE.write_text(wanted)
    elif text != wanted:
        print("conformance: docs/conformance.toml is not in step with the code: make conformance", file=sys.stderr)
        return 1
    clauses = set(done) | set(tested)
    untested = sum(1 for clause in clauses if not tested[clause])
    print(f"conformance: {len(clauses)} clauses cited, {untested} without a test that names them, "
          f"{len(exceptions)} exceptions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
