//! What the front page of every published crate has to say.

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
