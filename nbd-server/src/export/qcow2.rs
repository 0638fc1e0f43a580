//! An image in the format of QEMU as an export.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, Storage, StorageOpenOptions,
};
use nbd_proto::BlockSizes;
use rustix::io::Errno;

use super::durability::Durability;
use super::{Abilities, AllocationExtent, Export, ExtentKind, ZEROES, Zeroing, check_range};

/// A disk in a qcow2 image.
///
/// An image that names other files, for what it does not hold itself, is refused: whoever may
/// write to an image could have it name any file.
pub struct Qcow2Export {
    path: PathBuf,
    image: FormatAccess<File>,
    read_only: bool,
    durability: Durability,
}

impl Qcow2Export {
    /// Opens the image at `path`, to read and write. Nothing is created.
    ///
    /// # Errors
    /// When the path cannot be opened, is no qcow2 image, or names a backing file or a data file;
    /// the message names it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_named(path.as_ref(), false)
    }

    /// Opens it to read only.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_read_only(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_named(path.as_ref(), true)
    }

    fn open_named(path: &Path, read_only: bool) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
        };
        let image = Self::open_unnamed(path, read_only).map_err(named)?;
        Ok(Self {
            path: path.to_owned(),
            image: FormatAccess::new(image),
            read_only,
            durability: Durability::default(),
        })
    }

    fn open_unnamed(path: &Path, read_only: bool) -> io::Result<Qcow2<File>> {
        let options = StorageOpenOptions::new().filename(path).write(!read_only);
        let refuse = |what: &str, name: &str| {
            let text =
                format!("it names a {what}, {name:?}, and none is opened because an image says so");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        };
        // Looked at before anything else is.
        let looked_at = Qcow2::<File>::open_image(File::open(options.clone())?, false)?;
        if let Some(name) = looked_at.implicit_backing_file() {
            return refuse("backing file", name);
        }
        if let Some(name) = looked_at.implicit_external_data_file() {
            return refuse("data file", name);
        }
        drop(looked_at);
        Qcow2::builder(File::open(options)?).write(!read_only).open(DenyImplicitOpenGate::default())
    }

    /// Refuses a change of a range, before anything is changed.
    fn check_change(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.read_only {
            return Err(Errno::PERM.into());
        }
        check_range(self.size(), offset, len, Errno::NOSPC)
    }
}

impl Export for Qcow2Export {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        check_range(self.size(), offset, buf.len() as u64, Errno::INVAL)?;
        self.image.read(buf, offset)
    }

    fn abilities(&self) -> Abilities {
        let mut abilities = Abilities::MULTI_CONN;
        abilities.set(Abilities::WRITE | Abilities::TRIM | Abilities::FAST_ZERO, !self.read_only);
        abilities
    }

    fn block_sizes(&self) -> BlockSizes {
        BlockSizes { minimum: 1, preferred: 64 << 10, maximum: u32::MAX }
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_change(offset, buf.len() as u64)?;
        self.image.write(buf, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.durability.sync(|| self.image.flush().and_then(|()| self.image.sync()))
    }

    /// What is zero need not be stored.
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_change(offset, len)?;
        self.image.write_zeroes(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        self.check_change(offset, len)?;
        if zeroing.may_punch {
            return self.image.write_zeroes(offset, len);
        }
        if zeroing.fast_only {
            return Err(Errno::OPNOTSUPP.into());
        }
        let (mut offset, end) = (offset, offset + len);
        while offset < end {
            let length = (end - offset).min(ZEROES.len() as u64);
            self.image.write(&ZEROES[..length as usize], offset)?;
            offset += length;
        }
        Ok(())
    }

    fn extents(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        check_range(self.size(), offset, len, Errno::INVAL)?;
        let (mut position, end) = (offset, offset + len);
        let mut run: Option<AllocationExtent> = None;
        while position < end {
            let (mapping, length) = self.image.get_mapping(position, end - position)?;
            let kind = match mapping {
                Mapping::Zero { explicit: false, .. } => ExtentKind::Hole,
                Mapping::Zero { explicit: true, .. } | Mapping::Eof { .. } => ExtentKind::Zero,
                _ => ExtentKind::Data,
            };
            let length = if length == 0 { end - position } else { length.min(end - position) };
            position += length;
            match &mut run {
                Some(last) if last.kind == kind => last.length += length,
                _ => {
                    if let Some(last) = run.replace(AllocationExtent { length, kind })
                        && visit(last).is_break()
                    {
                        return Ok(());
                    }
                }
            }
        }
        if let Some(last) = run {
            let _: ControlFlow<()> = visit(last);
        }
        Ok(())
    }
}

impl fmt::Debug for Qcow2Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qcow2Export")
            .field("path", &self.path)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}
