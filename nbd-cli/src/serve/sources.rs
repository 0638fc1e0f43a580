//! What is served.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nbd_server::{
    Access, AccessRule, Directory, Export, ExportList, Exports, FileExport, MemoryExport, Opened,
    Overlay, Qcow2Export,
};
use serde::Deserialize;

use crate::size;

/// What to serve.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// A file or a block device that exists
    #[arg(value_name = "FILE", group = "source")]
    path: Option<PathBuf>,
    /// The same by name
    #[arg(long, value_name = "PATH", group = "source")]
    file: Option<PathBuf>,
    /// A disk in memory of this size, such as 64M or 1T; only what is written
    /// takes up memory
    #[arg(long, value_name = "SIZE", value_parser = size::parse, group = "source")]
    memory: Option<u64>,
    /// Every file of a directory, under its name
    #[arg(long, value_name = "PATH", group = "source")]
    directory: Option<PathBuf>,
    /// The exports that a TOML file lists: in each table "export" a name, and a path
    /// or a memory size; format, read-only, overlay and description if wanted; and
    /// users and readers, such as "10.0.0.0/8", "uid:1000", "cert:NAME" or
    /// "psk:NAME", where it is not for everybody
    #[arg(long, value_name = "FILE", group = "source")]
    config: Option<PathBuf>,
    /// The name of the export, which clients get too that ask for no name; or,
    /// with nothing else to serve, NAME=PATH, as often as there are exports
    #[arg(long, value_name = "NAME")]
    export: Vec<String>,
    /// What clients are told the export is
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Refuse all changes
    #[arg(long)]
    read_only: bool,
    /// What the bytes of the file are. Never guessed: a client could make a
    /// raw disk look like anything [default: raw]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<Format>,
    /// Keep changes in memory, and forget them at the end
    #[arg(long, conflicts_with = "read_only")]
    overlay: bool,
}

/// What is served, and what has to be flushed at the end.
pub(super) struct Sources {
    pub(super) exports: Arc<dyn Exports>,
    /// The name of the default export.
    pub(super) name: String,
    all: Vec<Arc<dyn Export>>,
}

/// What the bytes of a file are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// The bytes of the disk
    #[default]
    Raw,
    /// An image in the format of QEMU; one that names other files is refused
    Qcow2,
}

/// A file that lists exports.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    export: Vec<Entry>,
}

/// An export of such a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    #[serde(default)]
    name: String,
    path: Option<PathBuf>,
    memory: Option<String>,
    description: Option<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    overlay: bool,
    users: Option<Vec<String>>,
    readers: Option<Vec<String>>,
}

impl SourceArgs {
    /// Opens everything. `warn` is told what may be a mistake.
    ///
    /// # Errors
    ///
    /// When something cannot be opened, or there is nothing to serve; the message says what.
    pub(super) fn open(self, warn: &dyn Fn(&str)) -> io::Result<Sources> {
        let Self { path, file, memory, directory, config, export, description, .. } = &self;
        if let Some(path) = directory {
            self.refuse_names("the files of a directory have their own names")?;
            if self.overlay {
                return Err(invalid("--overlay is for exports that are known from the start"));
            }
            self.refuse_format("the files of a directory are raw")?;
            let exports = Arc::new(Directory::new(path)?.read_only(self.read_only));
            return Ok(Sources { exports, name: String::new(), all: Vec::new() });
        }
        if let Some(path) = config {
            self.refuse_names("the exports of a file of exports have their own names")?;
            self.refuse_format("a file of exports gives the format of each")?;
            return list(self.entries_of(path)?, warn);
        }
        let source = path.as_ref().or(file.as_ref());
        let flags = |entry| Entry {
            read_only: self.read_only,
            overlay: self.overlay,
            format: self.format.unwrap_or_default(),
            ..entry
        };
        if source.is_some() || memory.is_some() {
            let ([] | [_]) = &export[..] else {
                return Err(invalid("one export has one name"));
            };
            if memory.is_some() {
                self.refuse_format("memory has none")?;
            }
            let described = description.clone();
            let size = memory.map(size::format);
            let entry = flags(Entry {
                name: export.first().cloned().unwrap_or_default(),
                path: source.cloned(),
                description: described.or_else(|| size.map(|size| format!("{size} of memory"))),
                memory: memory.map(|size| size.to_string()),
                ..Entry::default()
            });
            return list(vec![entry], warn);
        }
        let entries = export
            .iter()
            .map(|text| match text.split_once('=') {
                Some((name, path)) => Ok(flags(Entry {
                    name: name.to_owned(),
                    path: Some(path.into()),
                    description: description.clone(),
                    ..Entry::default()
                })),
                None => Err(invalid("there is nothing to serve: an export needs --file or --memory, or is NAME=PATH")),
            })
            .collect::<io::Result<Vec<_>>>()?;
        list(entries, warn)
    }

    fn refuse_names(&self, reason: &str) -> io::Result<()> {
        if self.export.is_empty() && self.description.is_none() {
            Ok(())
        } else {
            Err(invalid(reason))
        }
    }

    fn refuse_format(&self, reason: &str) -> io::Result<()> {
        match self.format {
            None => Ok(()),
            Some(_) => Err(invalid(&format!("--format is for files that are named: {reason}"))),
        }
    }

    fn entries_of(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let named =
            |error: &dyn std::fmt::Display| invalid(&format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| named(&error))?;
        let config: Config = toml::from_str(&text).map_err(|error| named(&error.message()))?;
        let change = |entry: Entry| Entry {
            read_only: entry.read_only || self.read_only,
            overlay: entry.overlay || self.overlay,
            ..entry
        };
        Ok(config.export.into_iter().map(change).collect())
    }
}

/// Opens what is listed. The first is the default.
fn list(entries: Vec<Entry>, warn: &dyn Fn(&str)) -> io::Result<Sources> {
    let Some(first) = entries.first() else {
        return Err(invalid(
            "there is nothing to serve: give a file, --memory, --directory or --export NAME=PATH",
        ));
    };
    let name = first.name.clone();
    let (mut exports, mut all) = (ExportList::new(), Vec::new());
    for (i, entry) in entries.iter().enumerate() {
        if entries[..i].iter().any(|other| other.name == entry.name) {
            return Err(invalid(&format!("two exports are called {:?}", entry.name)));
        }
        let export = entry.open(warn)?;
        all.push(Arc::clone(&export));
        let mut opened = Opened::new(&entry.name, export).read_only(entry.read_only);
        if let Some(description) = &entry.description {
            opened = opened.described(description);
        }
        exports = match entry.access()? {
            Some(access) => exports.restricted(opened, access),
            None => exports.opened(opened),
        };
    }
    Ok(Sources { exports: Arc::new(exports), name, all })
}

impl Entry {
    /// Who may use it, if that is not everybody.
    fn access(&self) -> io::Result<Option<Access>> {
        if self.users.is_none() && self.readers.is_none() {
            return Ok(None);
        }
        let rules = |texts: &Option<Vec<String>>| {
            let texts = texts.iter().flatten();
            let rules = texts.map(|text| text.parse::<AccessRule>());
            rules.collect::<Result<Vec<_>, _>>().map_err(|error| invalid(&error.to_string()))
        };
        Ok(Some(Access::nobody().users(rules(&self.users)?).readers(rules(&self.readers)?)))
    }

    fn open(&self, warn: &dyn Fn(&str)) -> io::Result<Arc<dyn Export>> {
        // proto.md, "Conventions": strings are no longer than this.
        const LONGEST: usize = 4096;
        for (what, text) in
            [("export name", Some(&self.name)), ("description", self.description.as_ref())]
        {
            if text.is_some_and(|text| text.len() > LONGEST) {
                return Err(invalid(&format!("the {what} is too long: more than {LONGEST} bytes")));
            }
        }
        let export: Arc<dyn Export> = match (&self.path, &self.memory) {
            (Some(path), None) => self.open_file(path, warn)?,
            (None, Some(size)) => {
                let bytes =
                    size::parse(size).map_err(|error| invalid(&format!("{size}: {error}")))?;
                Arc::new(MemoryExport::new(bytes))
            }
            (Some(_), Some(_)) | (None, None) => {
                let name = &self.name;
                return Err(invalid(&format!(
                    "export {name:?} needs one of a path and a memory size"
                )));
            }
        };
        if !self.overlay {
            return Ok(export);
        }
        let top = MemoryExport::new(export.size());
        Ok(Arc::new(Overlay::new(export, top)?))
    }
}

impl Entry {
    fn open_file(&self, path: &Path, warn: &dyn Fn(&str)) -> io::Result<Arc<dyn Export>> {
        let read_only = self.read_only || self.overlay;
        if self.format == Format::Qcow2 {
            return Ok(Arc::new(if read_only {
                Qcow2Export::open_read_only(path)?
            } else {
                Qcow2Export::open(path)?
            }));
        }
        let file =
            if read_only { FileExport::open_read_only(path)? } else { FileExport::open(path)? };
        if let Some(format) = image_format(path) {
            warn(&format!(
                "{} looks like a {format} image and is served as it is, as raw bytes",
                path.display()
            ));
        }
        Ok(Arc::new(file))
    }
}

impl Sources {
    /// Makes what was written durable.
    ///
    /// # Errors
    ///
    /// When it may be lost.
    pub(super) fn flush(&self) -> io::Result<()> {
        // All of them, whatever becomes of the first.
        let flushed: Vec<_> = self.all.iter().map(|export| export.flush()).collect();
        flushed.into_iter().collect::<io::Result<()>>().map_err(|error| {
            let text = format!("what clients wrote may be lost, flushing it failed: {error}");
            io::Error::new(error.kind(), text)
        })
    }
}

/// What a file looks like that is no plain disk, by how it begins. Never acted on: a client that
/// may write to a raw disk could make it look like anything.
fn image_format(path: &Path) -> Option<&'static str> {
    const FORMATS: [(&[u8], &str); 6] = [
        (b"QFI\xfb", "qcow2"),
        (b"KDMV", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"# Disk DescriptorFile", "VMDK"),
        (b"<<< ", "VDI"),
    ];
    let mut start = [0; 32];
    let n = fs::File::open(path).and_then(|mut file| file.read(&mut start)).ok()?;
    let start = &start[..n];
    FORMATS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| *name)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
