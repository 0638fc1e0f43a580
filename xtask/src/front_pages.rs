//! What the front page of every published crate has to say, and what guides may name.

use std::fs;

use crate::workspace::root;

/// Text of a file below the root; nothing where there is none.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// The libraries that are published.
fn libraries() -> Vec<String> {
    let entries = fs::read_dir(root()).expect("the workspace").filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut libraries: Vec<_> = names
        .filter(|name| !read(&format!("{name}/Cargo.toml")).contains("publish = false"))
        .filter(|name| !read(&format!("{name}/src/lib.rs")).is_empty())
        .collect();
    libraries.sort();
    libraries
}

/// The first two numbers of the workspace's version: what a dependency asks for.
fn version() -> String {
    let numbers: Vec<_> = env!("CARGO_PKG_VERSION").split('.').take(2).collect();
    numbers.join(".")
}

#[test]
fn how_to_depend_on_it() {
    let libraries = libraries();
    assert!(libraries.len() >= 10, "{libraries:?}");
    for name in libraries {
        let page = read(&format!("{name}/src/lib.rs"));
        let plain = format!("{name} = \"{}\"", version());
        let featured = format!("{name} = {{ version = \"{}\"", version());
        assert!(page.contains(&plain) || page.contains(&featured), "{name} has not {plain}");
    }
}

/// Names of the interface in a text: what stands in backticks outside of code, with an underscore
/// or with `::`, without arguments.
fn names(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    let quoted = prose.flat_map(|part| part.split('`').skip(1).step_by(2));
    let names = quoted.map(|name| name.split(['(', '<']).next().unwrap_or(name));
    let is_name = |name: &&str| {
        let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':');
        let of_functions = name.contains('_') && !name.contains(char::is_uppercase);
        name.chars().all(plain) && (of_functions || name.contains("::"))
    };
    names.filter(is_name).collect()
}

#[test]
fn guides_name_what_there_is() {
    let entries = |directory: &str| {
        let entries = fs::read_dir(root().join(directory)).expect("a directory");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let text = |path: &std::path::PathBuf| fs::read_to_string(path).expect("a text");
    let interface: String = entries("docs/public-api").iter().map(text).collect();
    let word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let there = |name: &str| {
        interface.match_indices(name).any(|(at, _)| {
            !interface[..at].ends_with(word) && !interface[at + name.len()..].starts_with(word)
        })
    };
    let mut seen = 0;
    for guide in entries("docs/guides") {
        let page = text(&guide);
        for name in names(&page) {
            // A crate's own name, in Rust and by itself, is no part of a path there.
            let tail = name.rsplitn(3, "::").take(2).collect::<Vec<_>>();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join("::");
            assert!(there(&tail), "{}: there is no {name}", guide.display());
            seen += 1;
        }
    }
    assert!(seen > 25, "{seen} names");
}
