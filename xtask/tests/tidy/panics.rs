//! Library code returns errors: nothing in it may end in a panic.

use crate::source::{Source, words};
use crate::{expect_none, workspace};

const RULE: &str = "panic";
const MACROS: [&str; 7] =
    ["panic", "unreachable", "todo", "unimplemented", "assert", "assert_eq", "assert_ne"];
const METHODS: [&str; 4] = ["unwrap", "expect", "unwrap_err", "expect_err"];

#[test]
fn library_code_has_no_panic_path() {
    let (_, metadata) = workspace();
    let mut problems = Vec::new();
    // The test kit is only ever linked into tests.
    for package in metadata.packages.iter().filter(|p| p.name != "align-testkit") {
        for source in Source::of_crate(&package.dir) {
            find(&source, &mut problems);
        }
    }
    expect_none(&problems);
}

fn find(source: &Source, problems: &mut Vec<String>) {
    let code = &source.code;
    for name in MACROS {
        for at in words(code, name) {
            let called =
                code[at + name.len()..].starts_with('!') && !code[at + name.len()..].starts_with("!=");
            if called && !is_constant(&code[..at]) {
                source.report(problems, at, RULE, &format!("{name}! in library code"));
            }
        }
    }
    for name in METHODS {
        for at in words(code, name) {
            let before = code[..at].trim_end();
            let open = at + name.len();
            let is_call = code[open..].starts_with('(');
            let own_method = is_call && source.is_fallible(open);
            // As a path it is a function value, for example in `.map(Option::unwrap)`.
            if (before.ends_with('.') && is_call && !own_method) || before.ends_with("::") {
                source.report(problems, at, RULE, &format!(".{name}() in library code"));
            }
        }
    }
}

/// True inside `const _: () = ...` and `const { ... }`, which the compiler evaluates.
fn is_constant(before: &str) -> bool {
    let statement = before.rsplit([';', '}']).next().unwrap_or(before).trim();
    statement.starts_with("const _") || before.trim_end().ends_with("const {")
}

#[test]
fn each_panic_path_is_caught() {
    let count = |text: &str| {
        let mut problems = Vec::new();
        find(&Source::new("f.rs".as_ref(), text), &mut problems);
        problems.len()
    };
    for text in [
        "fn f() { x.unwrap(); }",
        "fn f() { x\n    .unwrap(); }",
        "fn f() { x.expect(\"reason\"); }",
        "fn f() { x.unwrap_err(); }",
        "fn f() { x.map(Option::unwrap); }",
        "fn f() { panic!(\"no\"); }",
        "fn f() { unreachable!() }",
        "fn f() { todo!() }",
        "fn f() { unimplemented!() }",
        "fn f() { assert!(a); }",
        "fn f() { assert_eq!(a, b); }",
        "fn f() { assert_ne!(a, b); }",
        "fn f() { std::panic!(); }",
        "#[cfg(not(test))] fn f() { x.unwrap(); }",
        "#[cfg(test)] mod tests { fn g() {} } fn f() { x.unwrap(); }",
    ] {
        assert_eq!(count(text), 1, "{text}");
    }
    for text in [
        "fn f() { x.unwrap_or(1); x.unwrap_or_default(); debug_assert!(a); }",
        "fn f() { std::panic::catch_unwind(g); }",
        "fn f() { self.expect(b'{')?; }",
        "// x.unwrap()\n/// panic!()\nfn f() { g(\"todo!()\"); }",
        "#[cfg(test)] mod tests { fn f() { x.unwrap(); panic!() } }",
        "#[test] fn f() { x.unwrap(); }",
        "const _: () = assert!(A > 1);",
        "fn f() { const { assert!(A > 1) } }",
        "fn f() { x.unwrap(); } // tidy: allow(panic): cannot fail, the length was checked",
    ] {
        assert_eq!(count(text), 0, "{text}");
    }
}
