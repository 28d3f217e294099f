#!/usr/bin/env python3
"""Checks every dependency against `licenses.allow` of deny.toml, and that it comes from the crates registry.

What cargo-deny does in full, where it is installed; this much needs only cargo and Python.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def packages():
    """The packages of the tree, for the machine this runs on: others would have to be downloaded first."""
    version = subprocess.run(["rustc", "-vV"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (\S+)$", version, re.MULTILINE).group(1)
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    metadata = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(metadata)["packages"]


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be met with allowed licences. `/` is how old crates write OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def alternatives():
        met = all_of()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = all_of() or met
        return met

    def all_of():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def one():
        token = tokens.pop(0)
        if token == "(":
            met = alternatives()
            tokens.pop(0)
            return met
        if tokens and tokens[0] == "WITH":
            token = f"{token} WITH {tokens[1]}"
            del tokens[:2]
        return token in allowed

    return alternatives()


def main():
    allowed = set(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])
    complaints = []
    tree = packages()
    for package in tree:
        name = f"{package['name']} {package['version']}"
        if not package["license"]:
            complaints.append(f"{name}: names no licence")
        elif not is_allowed(package["license"], allowed):
            complaints.append(f"{name}: {package['license']} is not allowed by deny.toml")
        source = package["source"]
        if source is not None and not source.startswith("registry+"):
            complaints.append(f"{name}: does not come from a registry")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(f"licences: {len(tree)} packages, {len(complaints)} not as deny.toml wants them")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
