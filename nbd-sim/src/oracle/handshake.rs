//! Greeting, client flags and what option haggling changes.

use super::error::Fault;
use super::message::{BlockSizes, Context, Info, Message, OptionData, OptionReply};
use super::numbers::{self, flag, opt, rep};
use super::reader::{Reader, Stop};
use super::summary::{Style, Tls};
use super::{Oracle, Phase};

/// What option haggling has to remember between messages.
#[derive(Debug, Default)]
pub(super) struct Haggling {
    /// The handshake flags that the server offered.
    offered: u16,
    /// The data of the option that awaits its reply.
    pub(super) asked: Option<OptionData>,
    /// What the replies to that option have said so far.
    heard: Heard,
    /// The export and contexts of the last `NBD_OPT_SET_META_CONTEXT`.
    selected: Option<(String, Vec<Context>)>,
}

#[derive(Debug, Default)]
struct Heard {
    export: Option<(u64, u16)>,
    name: Option<String>,
    description: Option<String>,
    block_sizes: Option<BlockSizes>,
    contexts: Vec<Context>,
    exports: Vec<(String, String)>,
}

impl Oracle {
    /// "Oldstyle negotiation" and "Newstyle negotiation".
    pub(super) fn greeting(&mut self, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        match reader.u64()? {
            numbers::NBDMAGIC => {}
            other => return Err(Fault::Magic(other).into()),
        }
        match reader.u64()? {
            numbers::OLDSTYLE => {
                let size = reader.u64()?;
                let (high, low) = (reader.u16()?, reader.u16()?);
                let flags = u32::from(high) << 16 | u32::from(low);
                padding(reader)?;
                if high != 0 {
                    // "The server MUST NOT set any of these flags during oldstyle".
                    return Err(Fault::HandshakeFlags(high).into());
                }
                self.summary.style = Some(Style::Oldstyle);
                self.enter(size, low)?;
                Ok(Message::OldstyleGreeting { size, flags })
            }
            numbers::IHAVEOPT => {
                let flags = reader.u16()?;
                if flags & !(numbers::FIXED_NEWSTYLE | numbers::NO_ZEROES) != 0 {
                    return Err(Fault::HandshakeFlags(flags).into());
                }
                self.haggling.offered = flags;
                self.summary.style = Some(Style::Newstyle);
                self.phase = Phase::ClientFlags;
                Ok(Message::Greeting { flags })
            }
            other => Err(Fault::Magic(other).into()),
        }
    }

    /// "Client flags".
    pub(super) fn client_flags(&mut self, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        let flags = reader.u32()?;
        let offered = self.haggling.offered;
        if flags & !u32::from(offered) != 0 {
            return Err(Fault::ClientFlags(flags).into());
        }
        if flags & u32::from(numbers::FIXED_NEWSTYLE) != 0 {
            self.summary.style = Some(Style::FixedNewstyle);
        }
        self.summary.no_zeroes = flags & u32::from(numbers::NO_ZEROES) != 0;
        self.phase = Phase::Options;
        Ok(Message::ClientFlags { flags })
    }

    /// Whether the server said that it takes more than `NBD_OPT_EXPORT_NAME`. It may
    /// honour that even for a client that did not answer in kind.
    pub(super) fn server_is_fixed(&self) -> bool {
        self.haggling.offered & numbers::FIXED_NEWSTYLE != 0
    }

    /// The reply to `NBD_OPT_EXPORT_NAME`.
    pub(super) fn export_name_reply(&mut self, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        let size = reader.u64()?;
        let flags = reader.u16()?;
        if !self.summary.no_zeroes {
            padding(reader)?;
        }
        let Some(OptionData::ExportName(name)) = self.haggling.asked.take() else {
            return Err(Fault::OutOfTurn.into());
        };
        self.choose(name);
        self.enter(size, flags)?;
        Ok(Message::ExportNameReply { size, flags })
    }

    /// Sets out what a reply means for the session.
    pub(super) fn heed(&mut self, option: u32, reply: &OptionReply) -> Result<(), Fault> {
        match reply {
            OptionReply::Server { name, description } => {
                self.haggling.heard.exports.push((name.clone(), description.clone()));
            }
            OptionReply::Info(info) => self.heed_info(info)?,
            OptionReply::Context(context) => self.heed_context(option, context)?,
            OptionReply::Ack => self.accept(option)?,
            OptionReply::Error { code, text } => self.refuse(option, *code, text)?,
            OptionReply::Other { .. } => {}
        }
        Ok(())
    }

    fn heed_info(&mut self, info: &Info) -> Result<(), Fault> {
        match info {
            Info::Export { size, flags } => {
                self.check_flags(*flags)?;
                self.haggling.heard.export = Some((*size, *flags));
            }
            Info::Name(name) => self.haggling.heard.name = Some(name.clone()),
            Info::Description(text) => self.haggling.heard.description = Some(text.clone()),
            Info::BlockSize(sizes) => self.haggling.heard.block_sizes = Some(*sizes),
            Info::Other { .. } => {}
        }
        Ok(())
    }

    fn heed_context(&mut self, option: u32, context: &Context) -> Result<(), Fault> {
        if option == opt::SET_META_CONTEXT {
            let no_query = |data: &OptionData| matches!(data, OptionData::Contexts { queries, .. } if queries.is_empty());
            if self.haggling.asked.as_ref().is_some_and(no_query) {
                return Err(Fault::ContextUnasked);
            }
            if self.haggling.heard.contexts.iter().any(|other| other.id == context.id) {
                return Err(Fault::ContextTwice(context.id));
            }
        }
        self.haggling.heard.contexts.push(context.clone());
        Ok(())
    }

    fn accept(&mut self, option: u32) -> Result<(), Fault> {
        let heard = std::mem::take(&mut self.haggling.heard);
        let asked = self.haggling.asked.take();
        self.phase = Phase::Options;
        match option {
            opt::ABORT => self.phase = Phase::Ended,
            opt::LIST => self.summary.exports = heard.exports,
            opt::STARTTLS => {
                // "When this command succeeds, the server MUST NOT preserve any
                // negotiation state".
                self.summary.tls = Tls::Started;
                self.summary.structured = false;
                self.summary.extended = false;
                self.haggling.selected = None;
            }
            opt::STRUCTURED_REPLY => self.summary.structured = true,
            opt::EXTENDED_HEADERS => self.summary.extended = true,
            opt::SET_META_CONTEXT => {
                if let Some(OptionData::Contexts { name, .. }) = asked {
                    self.haggling.selected = Some((name, heard.contexts));
                }
            }
            opt::INFO | opt::GO => {
                let (size, flags) = heard.export.ok_or(Fault::NoExportInfo)?;
                if option == opt::GO {
                    if let Some(OptionData::Export { name, .. }) = asked {
                        self.choose(name);
                    }
                    self.summary.canonical_name = heard.name;
                    self.summary.description = heard.description;
                    self.summary.block_sizes = heard.block_sizes;
                    self.enter(size, flags)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn refuse(&mut self, option: u32, code: u32, text: &str) -> Result<(), Fault> {
        self.haggling.heard = Heard::default();
        let asked = self.haggling.asked.take();
        let wrong = Fault::ReplyKind { option, kind: code };
        match code {
            // "The server MUST reply with `NBD_REP_ACK`."
            _ if option == opt::ABORT => return Err(wrong),
            // "The server MUST NOT send this error if size constraints were requested".
            rep::ERR_BLOCK_SIZE_REQD => {
                let requested = |data: &OptionData| {
                    let wanted = numbers::info::BLOCK_SIZE;
                    matches!(data, OptionData::Export { requests, .. } if requests.contains(&wanted))
                };
                if asked.as_ref().is_some_and(requested) {
                    return Err(wrong);
                }
            }
            // Extended headers bring NBD_OPT_GO with them.
            rep::ERR_UNSUP if self.summary.extended && option == opt::GO => return Err(wrong),
            rep::ERR_EXT_HEADER_REQD
                if self.summary.extended && option != opt::STRUCTURED_REPLY =>
            {
                return Err(wrong);
            }
            _ => {}
        }
        match option {
            opt::STARTTLS if self.summary.tls == Tls::Asked => {
                self.summary.tls = Tls::Refused(code);
            }
            // "replaces all previously-set metadata contexts (including when this command
            // fails)".
            opt::SET_META_CONTEXT => self.haggling.selected = None,
            _ => {}
        }
        self.summary.refusals.push((option, code, text.to_owned()));
        self.phase = Phase::Options;
        Ok(())
    }

    /// Contexts hold for the export that they were selected for, and no other.
    fn choose(&mut self, name: String) {
        self.summary.contexts = match self.haggling.selected.take() {
            Some((selected, contexts)) if selected == name => contexts,
            _ => Vec::new(),
        };
        self.summary.export_name = Some(name);
    }

    fn enter(&mut self, size: u64, flags: u16) -> Result<(), Fault> {
        self.check_flags(flags)?;
        self.summary.size = Some(size);
        self.summary.flags = Some(flags);
        self.phase = Phase::Transmission;
        Ok(())
    }

    /// "Transmission flags": what each bit needs.
    fn check_flags(&self, flags: u16) -> Result<(), Fault> {
        let chunks = self.summary.structured || self.summary.extended;
        let has = |bit| flags & bit != 0;
        let lies = !has(flag::HAS_FLAGS)
            || has(flag::FAST_ZERO) && !has(flag::WRITE_ZEROES)
            || has(flag::DF) && !chunks
            || has(flag::BLOCK_STATUS_PAYLOAD) && !self.summary.extended;
        if lies { Err(Fault::TransmissionFlags(flags)) } else { Ok(()) }
    }
}

fn padding(reader: &mut Reader<'_>) -> Result<(), Stop> {
    if reader.bytes(numbers::PADDING)?.iter().any(|byte| *byte != 0) {
        return Err(Fault::Padding.into());
    }
    Ok(())
}
