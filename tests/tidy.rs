//! Style made executable: what a reviewer would otherwise have to look for in every change.

use std::{fs, path::Path};

use walkdir::WalkDir;

/// Every source file of ours, with its text.
fn sources(roots: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = roots.iter().flat_map(|folder| WalkDir::new(root.join(folder))).filter_map(Result::ok);
    let rust = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "rs"));
    let named = rust.map(|file| {
        let name = file.path().strip_prefix(root).unwrap().display().to_string();
        (name, fs::read_to_string(file.path()).unwrap())
    });
    let all: Vec<_> = named.collect();
    assert!(!all.is_empty(), "no sources under {roots:?}");
    all
}

/// The lines that are code: no comments, no docs.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn every_file_opens_with_its_idea() {
    for (name, text) in sources(&["src", "actors", "tests", "examples"]) {
        assert!(text.starts_with("//!"), "{name} does not open with `//!`");
    }
}

#[test]
fn the_kernel_is_pure() {
    let impure = ["actix::", "tokio::", "sqlx::", "SystemTime", "Instant::now", "rand::", "thread::", "std::fs", "std::net"];
    for (name, text) in sources(&["src/kernel"]).iter().filter(|(name, _)| !name.contains("tests")) {
        for word in impure {
            assert!(!code(text).any(|line| line.contains(word)), "{name} uses {word}: the kernel is plain values");
        }
    }
}

#[test]
fn actix_is_confined_to_actors_and_sqlx_to_the_stores_on_it() {
    for (name, text) in sources(&["src"]) {
        // The public edge: the error of a dead mailbox, the names that users need, and the command line, which is a user.
        let edge = ["src/error.rs", "src/prelude.rs", "src/lib.rs"].contains(&name.as_str()) || name.starts_with("src/cli");
        let binary = name.starts_with("src/bin");
        assert!(edge || binary || !code(&text).any(|line| line.contains("actix")), "{name} uses actix");
        let store = name.starts_with("src/store/sqlite") || name.starts_with("src/store/postgres");
        // It knows the name under which the driver tells its statements, and nothing else of it.
        let store = store || name == "src/store/shown.rs";
        assert!(store || !code(&text).any(|line| line.contains("sqlx::")), "{name} uses sqlx");
    }
    for (name, text) in sources(&["actors"]) {
        assert!(!code(&text).any(|line| line.contains("sqlx")), "{name} uses sqlx");
    }
}

#[test]
fn every_message_stands_in_the_table_of_the_runtime() {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("actors/mod.rs")).unwrap();
    for (name, text) in sources(&["actors"]) {
        for line in code(&text).filter(|line| line.contains(" Handler<") && line.trim_start().starts_with("impl")) {
            let Some(message) = line.split(" Handler<").nth(1).and_then(|rest| rest.split(['<', '>']).next()) else { continue };
            if message.starts_with("Call") {
                continue;
            }
            assert!(table.contains(&format!("`{message}`")), "{message} ({name}) is missing in the table of actors/mod.rs");
        }
    }
}

#[test]
fn every_failpoint_is_listed_and_every_listed_one_exists() {
    let list = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/failpoints.rs")).unwrap();
    let list = list.split("pub const ALL").nth(1).and_then(|rest| rest.split("];").next()).unwrap().to_owned();
    let listed: Vec<&str> = list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
    assert!(!listed.is_empty());
    let sources = sources(&["actors", "src/store"]);
    for name in &listed {
        let call = format!("failpoint!(\"{name}\")");
        assert!(sources.iter().any(|(_, text)| text.contains(&call)), "{name} is listed and nowhere in the code");
    }
    for (file, text) in &sources {
        for name in text.split("failpoint!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(listed.contains(&name), "{name} ({file}) is not listed");
        }
    }
}

#[test]
fn every_invariant_is_told_and_upheld() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let catalogue = fs::read_to_string(root.join("src/kernel/invariant.rs")).unwrap();
    let told = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let body = catalogue.split("enum Invariant {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap();
    let names = body.lines().filter_map(|line| line.trim().strip_suffix(',')).filter(|name| !name.starts_with('/'));
    let sources = sources(&["src", "actors"]);
    for name in names {
        assert!(told.contains(&format!("| {name} |")), "{name} is missing in ARCHITECTURE.md");
        let upheld = |text: &str| text.replace(char::is_whitespace, "").contains(&format!("uphold!({name},"));
        assert!(sources.iter().any(|(_, text)| upheld(text)), "{name} is upheld nowhere");
    }
}

#[test]
fn files_stay_readable() {
    for (name, text) in sources(&["src", "actors", "tests", "examples"]) {
        let lines = text.lines().count();
        assert!(lines <= 650, "{name} has {lines} lines: look for its second noun");
    }
}

#[test]
fn nothing_unfinished_is_left() {
    for (name, text) in sources(&["src", "actors", "examples"]) {
        for word in ["todo!", "unimplemented!", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}

/// Each row of the table of what others promise names tests that exist, or says why there is none.
#[test]
fn every_promise_of_the_field_is_proven_or_answered() {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md")).unwrap();
    let tests: String = sources(&["tests", "src", "actors"]).into_iter().map(|(_, text)| text).collect();
    let (mut seen, mut rows) = (std::collections::BTreeSet::new(), 0);
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| theirs")) {
        rows += 1;
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        assert!(seen.insert(cells[0].to_owned()), "{} stands there twice", cells[0]);
        let named: Vec<&str> = cells[2].split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 2).collect();
        for name in &named {
            assert!(tests.contains(&format!("fn {name}()")), "{}: there is no test {name}", cells[0]);
        }
        assert!(
            cells[2].starts_with("**no**: ") || (!named.is_empty() && !cells[1].is_empty()),
            "{} is neither proven nor answered",
            cells[0]
        );
    }
    assert!(rows > 60, "{rows} rows: some were lost");
}
