//! The state file of `--resume`: which parts of the source are durable in the destination.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

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
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, copy, durable: Mutex::default() });
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
        let other = copy.iter().find(|(key, value)| state.copy.get(*key) != Some(value));
        if let Some((key, value)) = other {
            let was = state.copy.get(key).map_or("", String::as_str);
            return Err(Failure::new(format!(
                "{}: the state is of another copy: {key} was {was:?} and is {value:?}; remove \
                 the file to begin anew",
                path.display()
            )));
        }
        let inside = |(start, end): &(u64, u64)| {
            start < end && part.range.start <= *start && *end <= part.range.end
        };
        if !state.durable.iter().all(inside) {
            return Err(Failure::new(format!("{} is damaged", path.display())));
        }
        let durable = state.durable.into_iter().map(|(start, end)| start..end).collect();
        Ok(Self { path, copy, durable: Mutex::new(durable) })
    }

    /// What is still to be copied, in order.
    pub(super) fn left(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.gaps(range).collect()
    }

    /// These parts of the source are durable now.
    pub(super) fn add(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.extend(ranges);
        self.write(&durable).context(self.path.display())
    }

    fn write(&self, durable: &RangeSet<u64>) -> io::Result<()> {
        let durable = durable.iter().map(|range| (range.start, range.end)).collect();
        let state = State { version: VERSION, copy: self.copy.clone(), durable };
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let mut file = NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec(&state)?)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
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

/// What a target is called.
fn named(target: &Target) -> String {
    match target {
        Target::Nbd(server) => server.name.clone(),
        Target::File(path) => {
            fs::canonicalize(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        Target::Stdio => "-".to_owned(),
        Target::Null => "null:".to_owned(),
    }
}

/// What a source is, as far as it can be told.
fn identity(target: &Target) -> String {
    match target {
        Target::File(path) => match fs::metadata(path) {
            Ok(data) => format!("{} {}:{}", named(target), data.dev(), data.ino()),
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
