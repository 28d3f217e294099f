#!/usr/bin/env python3
"""Checks how the code hangs together: no ring of modules, and dependencies that point one way.

The unit is the file. A file depends on another one when its code, tests left out, names an item that is defined there:
in a `use`, or in a path that begins with `crate`, `super`, `self`, or a module or item that is in scope. A name is
followed through every `use` to where it is defined, so a re-export hides nothing. Which means for parents and children:

- `mod child;` is no dependency, nor is `pub use child::Item` in a parent that does nothing with the item itself;
- a parent that uses what its child defines depends on the child, and a child that uses what its parent's file defines
  depends on the parent;
- the name of a module alone, as in `use super::convert`, is none: what is named through it is.

Methods are not followed: an `impl` of a type in another file than the type's is a dependency on the type's file only.

A ring is two files or more that all depend on each other, directly or through others. Also checked: LAYERS, the order of
the rooms of `src/`; CRATES, which crate may depend on which; that the inner crates are free of runtime and clock:
no `async`, and nothing of RUNTIMES in their dependency trees (their `clippy.toml` bans the calls); that nothing runs but
what an account knows of, outside of UNTRACKED rooms; and that nobody but HOLDING rooms names `Account`.

Without arguments everything is checked. `--edges PATH` shows what a file or folder depends on, and who on it.
"""

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Which crate of ours may depend on which.
CRATES = {
    "access": set(),
    "bench": set(),
    "codec": set(),
    "nats-wire": set(),
    "ownership": set(),
    "proto-map": {"codec"},
    "proxy-wire": set(),
    "session": {"codec", "ownership"},
    ".": {"access", "codec", "nats-wire", "ownership", "proto-map", "proxy-wire", "session"},
}

# The rooms of src/, the highest first: a room may depend on those in lower lines and on itself. `nats`, `store`, `account`,
# `connection` and `listener`, `app` are the way of a message; what stands below `nats` knows nothing of MQTT and NATS.
LAYERS = [
    {"main"},
    {"cli"},
    {"app"},
    {"admin", "announce", "connection"},
    {"accounts"},
    {"auth"},
    {"listener"},
    {"account"},
    {"bans"},
    {"metrics"},
    {"store"},
    {"nats"},
    {"systemd"},
    {"embedded", "overload", "readiness", "shutdown", "stamp", "tasks"},
    {"logging"},
    {"network"},
    {"config"},
    {"rate"},
]

# Rooms of `src/` in which something runs that no account owns: the process, its listeners, a nats-server of its own. In all
# others everything that runs is a task of one account (`src/tasks.rs`), so that it ends with it; and what would begin
# another one. A closure on a thread for what blocks (`spawn_blocking`) is none: it ends by itself.
UNTRACKED = {"admin", "app", "cli", "embedded", "listener", "main", "shutdown", "systemd", "tasks"}
SPAWNING = {
    ("std", "thread", "Builder"), ("std", "thread", "spawn"), ("tokio", "runtime", "Handle"), ("tokio", "runtime", "Runtime"),
    ("tokio", "spawn"), ("tokio", "task", "JoinSet"), ("tokio", "task", "LocalSet"), ("tokio", "task", "spawn"),
    ("tokio", "task", "spawn_local"), ("tokio_util", "task", "JoinMap"), ("tokio_util", "task", "JoinQueue"),
    ("tokio_util", "task", "LocalPoolHandle"), ("tokio_util", "task", "TaskTracker"), ("tokio_util", "task", "task_tracker"),
}

# Who holds an account: what serves it, and what opens and shows it. Nobody else outside its room names it.
HOLDING = {"account", "accounts", "admin", "app", "connection"}

# What one of them has all the same: the zones of time windows, without the clock of the system.
EXCEPTIONS = {("access", "jiff")}

# Programs beside the product, which run as they like.
PROGRAMS = {"bench"}

# What an inner crate must not have in its dependency tree: whatever waits, opens sockets or reads a clock.
RUNTIMES = {
    "async-io", "async-std", "chrono", "futures-executor", "futures-util", "hyper", "jiff", "mio", "polling", "quanta",
    "smol", "socket2", "time", "tokio",
}


# Reading

TOKEN = re.compile(
    r"""
      //[^\n]*
    | /\*.*?\*/
    | [bc]?r(?P<hashes>\#*)".*?"(?P=hashes)
    | [bc]?"(?:\\.|[^"\\])*"
    | b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])'
    | '[A-Za-z_]\w*
    | (?P<word>(?:r\#)?[A-Za-z_]\w*)
    | \d\w*(?:\.\d\w*)?
    | (?P<sign>::|\S)
    """,
    re.VERBOSE | re.DOTALL,
)
ITEMS = {"struct", "enum", "union", "trait", "type", "fn", "const", "static", "macro_rules"}
OPENING = {"(": ")", "[": "]", "{": "}"}
WORD = re.compile(r"[A-Za-z_]\w*")


def tokens_of(text):
    """The words and signs of Rust code, without comments, literals and lifetimes."""
    found = []
    for match in TOKEN.finditer(text):
        if match.group("word") or match.group("sign"):
            found.append(match.group().removeprefix("r#"))
    return found


def end_of_group(tokens, at):
    """The place after the bracket that closes the one at `at`."""
    depth = 0
    while at < len(tokens):
        if tokens[at] in OPENING:
            depth += 1
        elif tokens[at] in OPENING.values():
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at


def end_of_item(tokens, at):
    """The place after an item, statement, field or arm that begins at `at`."""
    while at < len(tokens):
        token = tokens[at]
        if token == "{":
            return end_of_group(tokens, at)
        if token in OPENING or token == "#" and tokens[at + 1 : at + 2] == ["["]:
            at = end_of_group(tokens, at)
            continue
        if token in ";,":
            return at + 1
        if token in OPENING.values():
            return at
        at += 1
    return at


def without_tests(tokens):
    """Without what is compiled for tests only."""
    kept, at = [], 0
    while at < len(tokens):
        if tokens[at : at + 2] == ["#", "["]:
            end = end_of_group(tokens, at + 1)
            attribute = tokens[at + 2 : end - 1]
            if attribute[:3] == ["cfg", "(", "test"] or attribute[:5] == ["cfg", "(", "all", "(", "test"]:
                at = end_of_item(tokens, end)
            else:
                at = end  # what an attribute names is not ours
            continue
        kept.append(tokens[at])
        at += 1
    return kept


def use_leaves(tokens, at):
    """The leaves of a `use` tree as (path, name that it has here), and the place after the tree."""
    prefix, leaves = [], []
    while at < len(tokens):
        token = tokens[at]
        if token == "{":
            at += 1
            while tokens[at] != "}":
                inner, at = use_leaves(tokens, at)
                leaves += [(prefix + path, name or (prefix[-1] if path == ["self"] else name)) for path, name in inner]
                at += tokens[at] == ","
            return [(path[:-1] if path[-1] == "self" else path, name) for path, name in leaves], at + 1
        if token == "::":
            at += 1
            continue
        if token == "*" or WORD.fullmatch(token):
            prefix = prefix + [token]
            at += 1
            if tokens[at] == "as":
                return [(prefix, tokens[at + 1])], at + 2
            if tokens[at] == "::":
                continue
        return [(prefix, prefix[-1])], at
    return leaves, at


class Module:
    """A module: what it defines, what it imports, and the paths in its code."""

    def __init__(self, file, parent):
        self.file, self.parent = file, parent
        self.children, self.items = {}, set()
        self.imports = []  # (path, name, is re-exported)
        self.paths, self.words = set(), set()

    def root(self):
        return self.parent.root() if self.parent else self

    def ancestors(self):
        module = self
        while module:
            yield module
            module = module.parent


class Crate:
    """The modules of a crate. `read` gives the text of a file by its path, or None."""

    def __init__(self, root_file, read, aliases=()):
        self.read, self.aliases = read, dict(aliases)
        self.modules, self.files, self.has_async = [], set(), []
        self.root = self.module(root_file, None, Path(root_file).parent)
        self.by_file = defaultdict(list)
        for module in self.modules:
            self.by_file[module.file].append(module)

    def module(self, file, parent, folder):
        module = Module(file, parent)
        self.modules.append(module)
        self.files.add(file)
        tokens = without_tests(tokens_of(self.read(file)))
        if {"async", "await"} & set(tokens):
            self.has_async.append(file)
        self.walk(tokens, module, folder)
        return module

    def child(self, module, name, folder):
        for file, inner in ((folder / f"{name}.rs", folder / name), (folder / name / "mod.rs", folder / name)):
            if self.read(str(file)) is not None:
                module.children[name] = self.module(str(file), module, inner)
                return
        raise SystemExit(f"structure: {module.file}: there is no file for mod {name}")

    def walk(self, tokens, module, folder):
        at, depth = 0, 0
        while at < len(tokens):
            token = tokens[at]
            following = tokens[at + 1] if at + 1 < len(tokens) else ""
            if token == "mod" and depth == 0 and tokens[at + 2] in ("{", ";"):
                if tokens[at + 2] == ";":
                    self.child(module, following, folder)
                    at += 3
                else:
                    end = end_of_group(tokens, at + 2)
                    inner = module.children[following] = Module(module.file, module)
                    self.modules.append(inner)
                    self.walk(tokens[at + 3 : end - 1], inner, folder / following)
                    at = end
                continue
            if token == "use" and following != "<":
                is_public = at > 0 and tokens[at - 1] in ("pub", ")")
                leaves, at = use_leaves(tokens, at + 1)
                module.imports += [(tuple(path), name, is_public) for path, name in leaves]
                continue
            if token in ITEMS and depth == 0:
                name = tokens[at + 2] if following in ("!", "mut") else following
                if token != "const" or following not in ("fn", "unsafe", "extern", "async"):
                    module.items.add(name)
            if token in "{([":
                depth += 1
            elif token in "})]":
                depth -= 1
            if WORD.fullmatch(token):
                path, before = [token], tokens[at - 1] if at else ""
                while tokens[at + 1 : at + 2] == ["::"] and WORD.fullmatch(tokens[at + 2]):
                    path.append(tokens[at + 2])
                    at += 2
                if before != ".":  # a field or a method
                    module.words.add(path[0])
                if len(path) > 1:
                    module.paths.add(tuple(path))
            at += 1

    def targets(self, module, path, seen=frozenset()):
        """What a path names: modules, and (module, name) of items. Empty for what is not of this crate."""
        first, rest = path[0], path[1:]
        if first == "crate":
            start = {module.root()}
        elif first == "self":
            start = {module}
        elif first == "super":
            start = {module.parent} if module.parent else set()
        elif first in self.aliases:
            start = {self.aliases[first]}
        else:
            start = self.lookup(module, first, seen)
        for name in rest:
            inside = set()
            for target in start:
                if isinstance(target, tuple):
                    inside.add(target)  # a variant or a function of a type
                elif name == "super":
                    inside.add(target.parent)
                else:
                    inside |= self.lookup(target, name, seen)
            start = inside
        return start

    def lookup(self, module, name, seen):
        key = (id(module), name)
        if key in seen:
            return set()
        seen = seen | {key}
        found = {module.children[name]} if name in module.children else set()
        if name in module.items:
            found.add((module, name))
        for path, known_as, _ in module.imports:
            if known_as == name and path[-1] != "*" and path != (name,):
                found |= self.targets(module, path, seen)
        if not found:
            for path, _, _ in module.imports:
                if path[-1] == "*" and len(path) > 1:
                    for target in self.targets(module, path[:-1], seen):
                        if isinstance(target, Module):
                            found |= self.lookup(target, name, seen)
        return found

    def edges(self):
        """For each file, the files that it depends on, each with the names."""
        edges = defaultdict(lambda: defaultdict(set))

        def add(module, targets):
            for target in targets:
                if isinstance(target, tuple) and target[0].file != module.file:
                    edges[module.file][target[0].file].add(target[1])

        for module in self.modules:
            for path, name, is_public in module.imports:
                if path[-1] == "*":
                    for word in module.words if len(path) > 1 else ():
                        for target in self.targets(module, path[:-1]):
                            if isinstance(target, Module):
                                add(module, self.lookup(target, word, frozenset()))
                            else:
                                add(module, {target})
                    continue
                targets = self.targets(module, path)
                if is_public and name not in module.words:
                    targets = {
                        target
                        for target in targets
                        if not (isinstance(target, tuple) and module in target[0].ancestors())
                    }
                add(module, targets)
            for path in module.paths:
                add(module, self.targets(module, path))
        return edges

    def foreign_paths(self, module):
        """The paths of a module's code and imports that begin with another crate, as they are in full."""
        imported = {name: path for path, name, _ in module.imports if path[-1] != "*"}
        for path in module.paths | {path for path, _, _ in module.imports}:
            seen = set()
            while path[0] in imported and path[0] not in seen and imported[path[0]] != (path[0],):
                seen.add(path[0])
                path = imported[path[0]] + path[1:]
            yield path


# Judging


def rings_of(edges):
    """The strongly connected components of more than one file, by Tarjan."""
    index, low, stack, on_stack, rings = {}, {}, [], set(), []

    def visit(file):
        index[file] = low[file] = len(index)
        stack.append(file)
        on_stack.add(file)
        for other in sorted(edges.get(file, ())):
            if other not in index:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in on_stack:
                low[file] = min(low[file], index[other])
        if low[file] == index[file]:
            ring = []
            while not ring or ring[-1] != file:
                ring.append(stack.pop())
                on_stack.discard(ring[-1])
            if len(ring) > 1:
                rings.append(sorted(ring))

    for file in sorted(edges):
        if file not in index:
            visit(file)
    return sorted(rings, key=lambda ring: (-len(ring), ring))


def room_of(file):
    """The room of a file of src/: its first folder, or its own name."""
    return Path(file).parts[1].removesuffix(".rs")


def against_the_layers(edges, layers):
    """Complaints about rooms that depend on a room that is not below them."""
    place = {room: number for number, rooms in enumerate(layers) for room in rooms}
    complaints = []
    for file in sorted(file for file in edges if file.startswith("src/") and file != "src/lib.rs"):
        for other, names in sorted(edges[file].items()):
            here, there = room_of(file), room_of(other)
            for room in {here, there} - set(place):
                complaints.append(f"LAYERS does not have {room}, of which {file} or {other} is a part")
            if here != there and place.get(here, 0) >= place.get(there, len(layers)):
                complaints.append(f"{file} uses {', '.join(sorted(names))} of {other}: {there} is not below {here}")
    return complaints


def against_the_tasks(crate):
    """Complaints about tasks that their account does not know of."""
    complaints = set()
    for module in crate.modules:
        if not module.file.startswith("src/") or room_of(module.file) in UNTRACKED:
            continue
        for path in crate.foreign_paths(module):
            for spawning in SPAWNING:
                if path[: len(spawning)] == spawning:
                    complaints.add(f"{module.file} uses {'::'.join(spawning)}: what runs for an account is spawned by its Tasks")
    return sorted(complaints)


def against_the_holders(edges):
    """Complaints about rooms that name an account and have none."""
    return [
        f"{file} uses Account of {other}: only {', '.join(sorted(HOLDING))} hold one"
        for file in sorted(edges)
        for other, names in sorted(edges[file].items())
        if file.startswith("src/") and room_of(file) not in HOLDING and room_of(other) == "account" and "Account" in names
    ]


def against_the_crates():
    """Complaints about crates of ours that depend on one that they must not know."""
    package_of = {tomllib.loads((ROOT / name / "Cargo.toml").read_text())["package"]["name"]: name for name in CRATES}
    complaints = []
    for package, name in package_of.items():
        manifest = tomllib.loads((ROOT / name / "Cargo.toml").read_text())
        ours = {package_of[other] for other in manifest.get("dependencies", {}) if other in package_of}
        for other in sorted(ours - CRATES[name]):
            complaints.append(f"{package} must not depend on {other}/")
        if name == ".":
            missing = set(manifest["workspace"]["members"]) ^ (set(CRATES) - {"."})
            complaints += [f"CRATES and the members of the workspace differ: {name}" for name in sorted(missing)]
    return complaints


def runtimes(crates):
    """Complaints about inner crates that have a runtime in their dependency tree, or `async` in their code."""
    complaints = []
    for name in sorted(set(crates) - {"."} - PROGRAMS):
        complaints += [f"{file} has async in it: {name} has no runtime" for file in crates[name].has_async]
        command = ["cargo", "tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]
        tree = subprocess.run(command, cwd=ROOT / name, check=True, stdout=subprocess.PIPE, text=True).stdout
        named = {line.split()[0] for line in tree.splitlines() if line}
        wrong = sorted(crate for crate in named & RUNTIMES if (name, crate) not in EXCEPTIONS)
        complaints += [f"{name} must not have {crate} among its dependencies" for crate in wrong]
    return complaints


def describe(ring, edges):
    lines = [f"a ring of {len(ring)} files"]
    for file in ring:
        for other, names in sorted(edges[file].items()):
            if other in ring:
                lines.append(f"  {file} -> {other}: {', '.join(sorted(names))}")
    return "\n".join(lines)


def read_file(path):
    file = ROOT / path
    return file.read_text() if file.is_file() else None


def graph():
    """The crates of the tree, and what each file depends on."""
    crates, edges = {}, {}
    for name in CRATES:
        root = "src/main.rs" if name in PROGRAMS else "src/lib.rs"
        crates[name] = Crate(str(Path(name) / root), read_file)
        edges.update(crates[name].edges())
    main = Crate("src/main.rs", read_file, {"nats_mqtt": crates["."].root})
    edges.update(main.edges())
    return crates, edges


def main(arguments):
    crates, edges = graph()
    if arguments[:1] == ["--edges"]:
        for file in sorted(edges):
            for other, names in sorted(edges[file].items()):
                if any(place.startswith(arguments[1]) for place in (file, other)):
                    print(f"{file} -> {other}: {', '.join(sorted(names))}")
        return 0
    rings = rings_of(edges)
    complaints = [describe(ring, edges) for ring in rings]
    complaints += against_the_layers(edges, LAYERS) + against_the_crates() + runtimes(crates)
    complaints += against_the_tasks(crates["."]) + against_the_holders(edges)
    for complaint in complaints:
        print(f"structure: {complaint}", file=sys.stderr)
    files = sum(len(crate.files) for crate in crates.values())
    print(f"structure: {files} files, {len(rings)} rings, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
