//! Questions about the export and the connection.

use nbd_proto::{ExportInfo, HeaderStyle, TransmissionFlags};
use nbd_transport::Signal;
use rustix::io::Errno;

use crate::fail::Fail;
use crate::handle::{Handle, Memory};

/// The longest payload that is ever sent, in bytes.
const LONGEST: u32 = 64 << 20;

/// Something that an export can do or be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ability {
    /// It is not written to.
    ReadOnly,
    /// Flush is understood.
    Flush,
    /// Writes can be forced to the disk.
    Fua,
    /// It is a rotating disk.
    Rotational,
    /// Trim is understood.
    Trim,
    /// Write zeroes is understood.
    Zero,
    /// Write zeroes can be told to be fast or fail.
    FastZero,
    /// A block status can be about some meta contexts only.
    BlockStatusPayload,
    /// Reads can be told not to come in parts.
    Df,
    /// Several connections see one disk.
    MultiConn,
    /// Cache is understood.
    Cache,
}

impl<B: Memory> Handle<B> {
    fn export(&self) -> Result<&ExportInfo, Fail> {
        let unknown = || Fail::invalid("the server has not told of an export yet");
        self.facts.export.as_ref().ok_or_else(unknown)
    }

    /// Whether the export can do or is something.
    ///
    /// # Errors
    /// Before the server has told.
    pub fn can(&self, ability: Ability) -> Result<bool, Fail> {
        let flag = match ability {
            Ability::ReadOnly => TransmissionFlags::READ_ONLY,
            Ability::Flush => TransmissionFlags::SEND_FLUSH,
            Ability::Fua => TransmissionFlags::SEND_FUA,
            Ability::Rotational => TransmissionFlags::ROTATIONAL,
            Ability::Trim => TransmissionFlags::SEND_TRIM,
            Ability::Zero => TransmissionFlags::SEND_WRITE_ZEROES,
            Ability::FastZero => TransmissionFlags::SEND_FAST_ZERO,
            Ability::BlockStatusPayload => TransmissionFlags::BLOCK_STATUS_PAYLOAD,
            Ability::Df => TransmissionFlags::SEND_DF,
            Ability::MultiConn => TransmissionFlags::CAN_MULTI_CONN,
            Ability::Cache => TransmissionFlags::SEND_CACHE,
        };
        Ok(self.export()?.flags.contains(flag))
    }

    /// Whether a meta context was granted.
    ///
    /// # Errors
    /// Before that is known.
    pub fn can_meta_context(&self, name: &str) -> Result<bool, Fail> {
        if !self.level.knows_contexts_early() {
            self.export()?;
        } else if !self.settings.meta_contexts.is_empty() && !self.selected {
            return Err(Fail::invalid("no meta contexts were selected yet"));
        }
        Ok(self.facts.contexts.iter().any(|context| context.name == name))
    }

    /// The size of the export in bytes.
    ///
    /// # Errors
    /// Before the server has told, and `EOVERFLOW` from 2^63 on.
    pub fn size(&self) -> Result<i64, Fail> {
        let size = self.export()?.size;
        let large = |_| Fail::new(Errno::OVERFLOW, "the export's size has more than 63 bits");
        i64::try_from(size).map_err(large)
    }

    /// A block size, 0 if the server told none: 0 the minimum, 1 the preferred, 2 the maximum,
    /// 3 the longest payload.
    ///
    /// # Errors
    /// Before the server has told of the export, and for another number.
    pub fn block_size(&self, which: u32) -> Result<i64, Fail> {
        let sizes = self.export()?.block_sizes;
        let size = match (which, sizes) {
            (0, Some(sizes)) => sizes.minimum,
            (1, Some(sizes)) => sizes.preferred,
            (2, Some(sizes)) => sizes.maximum,
            (3, Some(sizes)) => sizes.maximum.clamp(1 << 20, LONGEST),
            (3, None) => 32 << 20,
            (0..=2, None) => 0,
            _ => return Err(Fail::invalid("no such block size")),
        };
        Ok(size.into())
    }

    /// The server's own name for the export.
    ///
    /// # Errors
    /// When the server did not tell, or was not asked.
    pub fn canonical_name(&self) -> Result<String, Fail> {
        told(self.export()?.canonical_name.clone(), "name")
    }

    /// The server's words about the export.
    ///
    /// # Errors
    /// When the server did not tell, or was not asked.
    pub fn description(&self) -> Result<String, Fail> {
        told(self.export()?.description.clone(), "description")
    }

    /// Which negotiation was spoken.
    #[must_use]
    pub const fn protocol(&self) -> &'static str {
        self.facts.protocol.name()
    }

    /// Whether TLS is in use.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.facts.tls
    }

    /// Whether replies are structured.
    #[must_use]
    pub fn has_structured_replies(&self) -> bool {
        self.facts.headers >= HeaderStyle::Structured
    }

    /// Whether headers are extended.
    #[must_use]
    pub fn has_extended_headers(&self) -> bool {
        self.facts.headers == HeaderStyle::Extended
    }

    /// The id of the program that was started for the connection.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn subprocess(&self) -> Result<u32, Fail> {
        let process = self.engine.as_ref().and_then(|engine| engine.process.as_ref());
        process.map(nbd_transport::PeerProcess::pid).ok_or_else(no_process)
    }

    /// Sends a signal to the program that was started for the connection; 0 is `SIGTERM`.
    ///
    /// # Errors
    /// `ESRCH` when there is none, `EINVAL` when there is no such signal.
    pub fn kill_subprocess(&mut self, signal: i32) -> Result<(), Fail> {
        let unknown = || Fail::invalid(format!("{signal} is no signal"));
        let signal = match signal {
            0 => Signal::TERM,
            number => Signal::from_number(number).ok_or_else(unknown)?,
        };
        let process = self.engine.as_mut().and_then(|engine| engine.process.as_mut());
        process.ok_or_else(no_process)?.kill(signal).map_err(|error| {
            Fail::numbered(error.raw_os_error().unwrap_or(0), "the program cannot be signalled")
        })
    }

    /// The first that finished among the commands that were not retired; 0 when none is.
    ///
    /// # Errors
    /// When none is in flight either.
    pub fn peek_completed(&mut self) -> Result<i64, Fail> {
        match self.commands.first_done() {
            Some(cookie) => Ok(cookie),
            None if self.in_flight() > 0 => Ok(0),
            None => Err(Fail::invalid("no command is in flight")),
        }
    }

    /// Retires a command. Whether it was finished; a command that was never submitted, or is
    /// retired already, is not.
    ///
    /// # Errors
    /// Its own, and for a number that is no command's.
    pub fn retire(&mut self, cookie: u64) -> Result<bool, Fail> {
        match i64::try_from(cookie) {
            Ok(cookie) if cookie > 0 => {}
            _ => return Err(Fail::invalid("commands are counted from 1")),
        }
        match self.commands.retire(cookie as i64) {
            None => Ok(false),
            Some(outcome) => outcome.map(|()| true),
        }
    }

    /// The state in words, for people.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        self.state.name()
    }
}

fn told(text: Option<String>, what: &str) -> Result<String, Fail> {
    text.ok_or_else(|| Fail::new(Errno::NOTSUP, format!("the server told no {what}")))
}

fn no_process() -> Fail {
    Fail::new(Errno::SRCH, "no program was started for this connection")
}
