//! The state file of `--resume`: which parts of the source are durable in the destination.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};

use super::part::Part;
use crate::failure::{Context, Failure, Result};
use crate::target::Target;

/// The version of the format.
const VERSION: u32 = 1;

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    /// What the copy is from and to; another copy has another one.
    copy: BTreeMap<String, String>,
    /// Starts and ends, in bytes of the source.
    durable: Vec<(u64, u64)>,
}

/// The state of a copy that may be interrupted.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    copy: BTreeMap<String, String>,
    /// The destination, if it is a file.
    to: Option<PathBuf>,
    durable: Mutex<RangeSet<u64>>,
}

impl Record {
    /// Where the state of a copy to a file is kept, unless it is said.
    pub(super) fn beside(to: &Target) -> Result<PathBuf> {
        match to {
            Target::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".nbd-resume");
                Ok(name.into())
            }
            Target::Nbd(_) | Target::Stdio | Target::Null => {
                Err(Failure::new("--resume needs the name of a state file here: --resume=FILE"))
            }
        }
    }

    /// Reads the state of an interrupted copy, or begins a new one. `size` is the source's.
    pub(super) fn open(
        path: PathBuf,
        (from, to): (&Target, &Target),
        (size, part): (u64, &Part),
    ) -> Result<Self> {
        let mut copy = BTreeMap::from([
            ("from".to_owned(), identity(from)),
            ("from-size".to_owned(), size.to_string()),
            ("from-offset".to_owned(), part.range.start.to_string()),
            ("length".to_owned(), (part.range.end - part.range.start).to_string()),
            ("to".to_owned(), named(to)),
            ("to-offset".to_owned(), part.to.to_string()),
        ]);
        if let Some(changed) = changed(from) {
            copy.insert("from-changed".to_owned(), changed);
        }
        let file = match to {
            Target::File(path) => Some(path.clone()),
            Target::Nbd(_) | Target::Stdio | Target::Null => None,
        };
        let here = file.as_deref().and_then(|path| fs::metadata(path).ok());
        if let Some(data) = &here {
            copy.insert(TO_FILE.to_owned(), number(data));
        }
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Later there would be much to lose.
                let temporary = beside(&path);
                let writable = File::create(&temporary).and_then(|_| fs::remove_file(&temporary));
                writable.context(path.display())?;
                return Ok(Self { path, copy, to: file, durable: Mutex::default() });
            }
            Err(error) => return Err(error).context(path.display()),
        };
        let state: State = serde_json::from_slice(&text).map_err(|error| {
            Failure::new(format!("{} is no state of a copy: {error}", path.display()))
        })?;
        if state.version != VERSION {
            return Err(Failure::new(format!(
                "{}: the state is of another version of this program",
                path.display()
            )));
        }
        if let Some(how) = differs(&state.copy, &copy) {
            return Err(Failure::new(format!(
                "{}: the state is of another copy: {how}; remove the file to begin anew",
                path.display()
            )));
        }
        let inside = |(start, end): &(u64, u64)| {
            start < end && part.range.start <= *start && *end <= part.range.end
        };
        if !state.durable.iter().all(inside) {
            return Err(Failure::new(format!("{} is damaged", path.display())));
        }
        let durable: RangeSet<u64> =
            state.durable.into_iter().map(|(start, end)| start..end).collect();
        let end = durable.last().map_or(0, |range| part.there(range.end));
        if here.is_some_and(|data| data.is_file() && data.len() < end) {
            return Err(Failure::new(format!(
                "{}: the destination is shorter than what was copied; remove the file to begin \
                 anew",
                path.display()
            )));
        }
        Ok(Self { path, copy, to: file, durable: Mutex::new(durable) })
    }

    /// What is still to be copied, in order.
    pub(super) fn left(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.gaps(range).collect()
    }

    /// What is durable, in order.
    pub(super) fn durable(&self) -> Vec<Range<u64>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The destination has another byte at an offset than it is to have.
    pub(super) fn outdated(&self, at: u64) -> Failure {
        Failure::new(format!(
            "{}: the destination does not hold what was copied to it, or the source has changed: \
             byte {at} differs; remove the file to begin anew",
            self.path.display()
        ))
    }

    /// These parts of the source are durable now.
    pub(super) fn add(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.extend(ranges);
        self.write(&durable).context(self.path.display())
    }

    fn write(&self, durable: &RangeSet<u64>) -> io::Result<()> {
        let durable = durable.iter().map(|range| (range.start, range.end)).collect();
        let mut copy = self.copy.clone();
        if let Some(to) = &self.to {
            // It may have been made meanwhile.
            copy.insert(TO_FILE.to_owned(), number(&fs::metadata(to)?));
        }
        let state = State { version: VERSION, copy, durable };
        let temporary = beside(&self.path);
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(&state)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            File::open(directory(&self.path))?.sync_all()
        });
        if written.is_err() {
            // The state that was there before still holds.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// The copy is whole.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(self.path.display())
            }
            _ => Ok(()),
        }
    }

    /// How to go on after an interruption.
    pub(super) fn advice(&self) -> Option<String> {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: u64 = durable.iter().map(|range| range.end - range.start).sum();
        self.path.exists().then(|| {
            format!("the same command goes on from here: {bytes} bytes of the source are safe")
        })
    }
}

/// What a state file is called until it is whole.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Where a file is.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Which file the destination is.
const TO_FILE: &str = "to-file";

/// In what a copy differs from the one before, if it does.
fn differs(was: &BTreeMap<String, String>, is: &BTreeMap<String, String>) -> Option<String> {
    let key = was.keys().chain(is.keys()).find(|key| was.get(*key) != is.get(*key))?;
    if key == TO_FILE {
        return Some("the destination is another file than it was".to_owned());
    }
    let value = |copy: &BTreeMap<String, String>| copy.get(key).cloned().unwrap_or_default();
    Some(format!("{key} was {:?} and is {:?}", value(was), value(is)))
}

/// What the system knows a file by.
fn number(data: &Metadata) -> String {
    format!("{}:{}", data.dev(), data.ino())
}

/// What a target is called.
fn named(target: &Target) -> String {
    match target {
        Target::Nbd(server) => server.name.clone(),
        Target::File(path) => real(path).display().to_string(),
        Target::Stdio => "-".to_owned(),
        Target::Null => "null:".to_owned(),
    }
}

/// The path without links and from the root on, whether the file is there or not.
pub(super) fn real(path: &Path) -> PathBuf {
    let absolute = || {
        let absolute = std::path::absolute(path).ok()?;
        Some(fs::canonicalize(absolute.parent()?).ok()?.join(absolute.file_name()?))
    };
    fs::canonicalize(path).ok().or_else(absolute).unwrap_or_else(|| path.to_owned())
}

/// What a source is, as far as it can be told.
fn identity(target: &Target) -> String {
    match target {
        Target::File(path) => match fs::metadata(path) {
            Ok(data) => format!("{} {}", named(target), number(&data)),
            Err(_) => named(target),
        },
        Target::Nbd(_) | Target::Stdio | Target::Null => named(target),
    }
}

/// When a source was changed, if that can be told.
fn changed(target: &Target) -> Option<String> {
    let Target::File(path) = target else { return None };
    let data = fs::metadata(path).ok()?;
    data.is_file().then(|| format!("{}.{:09}", data.mtime(), data.mtime_nsec()))
}
