#!/usr/bin/env python3
"""Tests of scripts/structure.py, on trees of a few lines."""

import unittest

import structure


def edges_of(files, aliases=()):
    crate = structure.Crate("src/lib.rs", {f"src/{name}.rs": text for name, text in files.items()}.get, aliases)
    return {
        (file.removeprefix("src/").removesuffix(".rs"), other.removeprefix("src/").removesuffix(".rs")): names
        for file, others in crate.edges().items()
        for other, names in others.items()
    }


class Edges(unittest.TestCase):
    def of(self, **files):
        return set(edges_of({name.replace("__", "/"): text for name, text in files.items()}))

    def test_a_use_is_an_edge(self):
        edges = edges_of({"lib": "mod a; mod b;", "a": "use crate::b::{Thing, inner::{self, Part as P}};",
                          "b": "pub struct Thing; pub mod inner { pub enum Part {} }"})
        self.assertEqual(edges, {("a", "b"): {"Thing", "Part"}})

    def test_a_path_in_code_is_an_edge(self):
        self.assertEqual(self.of(lib="mod a; mod b;", a="fn f() { super::b::g(1) }", b="pub fn g(_: u8) {}"), {("a", "b")})
        self.assertEqual(
            self.of(lib="mod a; mod b;", a="use super::b; fn f() -> u8 { b::G }", b="pub const G: u8 = 1;"), {("a", "b")}
        )

    def test_a_module_alone_is_none(self):
        self.assertEqual(self.of(lib="mod a; mod b;", a="use super::b;", b="pub fn g() {}"), set())

    def test_a_name_is_followed_to_its_definition(self):
        files = {
            "lib": "mod room; mod a;",
            "room": "mod part; mod other; pub use part::Thing; use other::Second;",
            "room/part": "pub struct Thing; use super::Second;",
            "room/other": "pub struct Second;",
            "a": "use crate::room::Thing as Renamed;",
        }
        self.assertEqual(set(edges_of(files)), {("a", "room/part"), ("room/part", "room/other"), ("room", "room/other")})

    def test_a_parent_that_only_exports_does_not_depend(self):
        child = "pub struct Thing; fn f() { super::g() }"
        parent = "mod child; pub(crate) use child::Thing; fn g() {}"
        self.assertEqual(self.of(lib="mod room;", room=parent, room__child=child), {("room/child", "room")})
        edges = self.of(lib="mod room;", room=parent + "struct Has(Thing);", room__child=child)
        self.assertEqual(edges, {("room/child", "room"), ("room", "room/child")})

    def test_an_export_of_a_neighbour_is_an_edge(self):
        self.assertEqual(self.of(lib="mod a; mod b;", a="pub use crate::b::T;", b="pub struct T;"), {("a", "b")})

    def test_globs_give_the_names_that_are_used(self):
        files = {"lib": "mod a; mod b;", "a": "use super::b::*; fn f(_: T) {}", "b": "pub struct T; pub struct U;"}
        self.assertEqual(edges_of(files), {("a", "b"): {"T"}})

    def test_what_is_for_tests_is_left_out(self):
        code = """
            #[cfg(test)] mod tests;
            #[cfg(test)] mod more { use crate::b::T; }
            #[cfg(test)] use crate::b::T;
            #[cfg(all(test, unix))] #[allow(dead_code)] fn f(a: [u8; 2]) -> T { crate::b::g() }
            struct S { #[cfg(test)] t: crate::b::T, n: u8 }
        """
        self.assertEqual(self.of(lib="mod a; mod b;", a=code, b="pub struct T;"), set())

    def test_comments_and_literals_are_no_code(self):
        code = """
            //! [`crate::b::T`]
            /* crate::b::T */
            const A: &str = "\\" crate::b::T"; const B: &str = r#"" crate::b::T"#; const C: char = '"';
            fn f<'a>(x: &'a str) -> impl Fn() + use<'a> { || () }
            const D: &str = "crate::b::T";
        """
        self.assertEqual(self.of(lib="mod a; mod b;", a=code, b="pub struct T;"), set())

    def test_modules_in_a_file_are_the_file(self):
        lib = "mod a; mod inner { pub mod deep { pub struct T; } } mod mod_rs;"
        files = {"lib": lib, "a": "use crate::inner::deep::T;", "mod_rs/mod": "mod child;", "mod_rs/child": "use super::super::a;"}
        self.assertEqual(set(edges_of(files)), {("a", "lib")})

    def test_another_crate_is_another_matter(self):
        self.assertEqual(self.of(lib="mod a; mod bytes;", a="use ::other::T; use outside::b::T;", bytes="pub struct T;"), set())


class Judgements(unittest.TestCase):
    def test_rings(self):
        edges = {"a": {"b": {"B"}}, "b": {"c": {"C"}}, "c": {"a": {"A"}, "d": {"D"}}, "d": {"e": {"E"}}, "e": {"d": {"F"}}}
        self.assertEqual(structure.rings_of(edges), [["a", "b", "c"], ["d", "e"]])
        self.assertEqual(structure.rings_of({"a": {"b": {"B"}, "c": {"C"}}, "b": {"c": {"C"}}}), [])

    def test_a_ring_is_told_with_what_makes_it_one(self):
        edges = {"a": {"b": {"B", "C"}, "c": {"D"}}, "b": {"a": {"A"}}}
        self.assertEqual(structure.describe(["a", "b"], edges), "a ring of 2 files\n  a -> b: B, C\n  b -> a: A")

    def test_layers(self):
        layers = [{"high"}, {"low", "beside"}]
        downwards = {"src/high/x.rs": {"src/low.rs": {"T"}, "src/high.rs": {"T"}}}
        self.assertEqual(structure.against_the_layers(downwards, layers), [])
        for edges in (
            {"src/low/x.rs": {"src/high.rs": {"T"}}},
            {"src/low.rs": {"src/beside.rs": {"T"}}},
            {"src/high.rs": {"src/unheard.rs": {"T"}}},
        ):
            self.assertEqual(len(structure.against_the_layers(edges, layers)), 1, edges)

    def test_what_runs_for_an_account_is_known_to_it(self):
        files = {
            "lib": "mod account; mod store; mod listener; mod connection;",
            "account": "use tokio::task; mod part; fn f() { task::spawn(g()); }",
            "account/part": "use tokio as runtime; fn f() { runtime::task::JoinSet::new(); tokio::task::spawn_blocking(g); }",
            "store": """
                use tokio::{runtime::Handle as H, spawn as begin}; fn f(tasks: &Tasks) { tasks.spawn(g()); begin(h()); }
                #[cfg(test)] mod tests { fn f() { tokio::spawn(g()); } }
            """,
            "connection": "use tokio_util::task::{TaskTracker, TaskTrackerToken}; fn f() { TaskTracker::new().spawn(g()); }",
            "listener": "fn f() { tokio::spawn(g()); }",
        }
        crate = structure.Crate("src/lib.rs", {f"src/{name}.rs": text for name, text in files.items()}.get)
        said = ": what runs for an account is spawned by its Tasks"
        self.assertEqual(
            structure.against_the_tasks(crate),
            [
                f"src/account.rs uses tokio::task::spawn{said}",
                f"src/account/part.rs uses tokio::task::JoinSet{said}",
                f"src/connection.rs uses tokio_util::task::TaskTracker{said}",
                f"src/store.rs uses tokio::runtime::Handle{said}",
                f"src/store.rs uses tokio::spawn{said}",
            ],
        )

    def test_only_who_holds_an_account_names_it(self):
        files = {
            "src/account/part.rs": {"src/account/mod.rs": {"Account"}},
            "src/connection/io.rs": {"src/account/mod.rs": {"Account"}},
            "src/listener.rs": {"src/account/mod.rs": {"Account", "AccountOptions"}, "src/config.rs": {"Account"}},
            "src/auth.rs": {"src/account/mod.rs": {"AccountOptions"}},
            "access/src/lib.rs": {"access/src/account/mod.rs": {"Account"}},
        }
        said = "only account, accounts, admin, app, connection hold one"
        self.assertEqual(
            structure.against_the_holders(files), [f"src/listener.rs uses Account of src/account/mod.rs: {said}"]
        )


if __name__ == "__main__":
    unittest.main()
