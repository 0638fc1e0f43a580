//! Which items do the job of which call: those that say so by `#[doc(alias = "nbd_…")]`.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use serde_json::{Map, Value};

use crate::{Outcome, rustdoc_json};

/// The crates that are looked through, in the order in which their items are named.
const PACKAGES: [&str; 7] = [
    "nbd-client-blocking",
    "nbd-session",
    "nbd-client-async",
    "nbd-client-tokio",
    "nbd-client-mio",
    "nbd-transport",
    "nbd-proto",
];

/// By alias, as libnbd calls it: the paths of the items.
pub(super) type Aliases = BTreeMap<String, Vec<String>>;

/// Asks rustdoc for all crates.
///
/// # Errors
///
/// When one cannot be documented, or what comes is not what is expected.
pub(super) fn all() -> Outcome<Aliases> {
    let mut aliases = Aliases::new();
    for package in PACKAGES {
        let path = rustdoc_json::build(package)?;
        let broken = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| broken(&error))?;
        let json: Value = serde_json::from_str(&text).map_err(|error| broken(&error))?;
        let found = of_crate(&json).ok_or_else(|| broken(&"not rustdoc's form"))?;
        for (alias, paths) in found {
            aliases.entry(alias).or_default().extend(paths);
        }
    }
    Ok(aliases)
}

fn of_crate(json: &Value) -> Option<Aliases> {
    let index = json["index"].as_object()?;
    let root = index.get(&json["root"].to_string())?;
    let mut paths = HashMap::new();
    walk(index, root, root["name"].as_str()?, &mut paths);
    let mut aliases = Aliases::new();
    for (id, path) in paths {
        for attribute in index[&id]["attrs"].as_array()? {
            let text = attribute["other"].as_str().unwrap_or_default();
            if text.contains("alias") {
                for alias in text.split('"').filter(|word| is_libnbds(word)) {
                    aliases.entry(alias.to_owned()).or_default().push(path.clone());
                }
            }
        }
    }
    for paths in aliases.values_mut() {
        paths.sort();
        paths.dedup();
    }
    Some(aliases)
}

fn is_libnbds(alias: &str) -> bool {
    ["nbd_", "LIBNBD_", "NBD."].iter().any(|prefix| alias.starts_with(prefix))
}

/// Finds the path by which each item can be named from outside, the shortest if there are
/// several.
fn walk(index: &Map<String, Value>, item: &Value, path: &str, paths: &mut HashMap<String, String>) {
    let id = item["id"].to_string();
    if paths.get(&id).is_some_and(|known| known.len() <= path.len()) {
        return;
    }
    paths.insert(id, path.to_owned());
    let Some((kind, inner)) = item["inner"].as_object().and_then(|inner| inner.iter().next())
    else {
        return;
    };
    let mut visit = |list: &Value, step: &str| {
        for id in list.as_array().into_iter().flatten() {
            let Some(child) = index.get(&id.to_string()) else { continue };
            if let Some(target) = child["inner"].get("use") {
                let Some(found) = index.get(&target["id"].to_string()) else { continue };
                let glob = target["is_glob"].as_bool() == Some(true);
                let name = target["name"].as_str().unwrap_or_default();
                let place = if glob { path.to_owned() } else { format!("{path}::{name}") };
                walk(index, found, &place, paths);
            } else if let Some(block) = child["inner"].get("impl") {
                // What implements a trait is named where the trait is.
                if block["trait"].is_null() {
                    for id in block["items"].as_array().into_iter().flatten() {
                        if let Some(member) = index.get(&id.to_string()) {
                            let name = member["name"].as_str().unwrap_or_default();
                            walk(index, member, &format!("{path}::{name}"), paths);
                        }
                    }
                }
            } else if let Some(name) = child["name"].as_str() {
                walk(index, child, &format!("{path}{step}{name}"), paths);
            }
        }
    };
    for (list, step) in [("items", "::"), ("impls", "::"), ("variants", "::")] {
        if !(kind == "trait" && list == "impls") {
            visit(&inner[list], step);
        }
    }
    visit(&inner["kind"]["plain"]["fields"], "::");
}
