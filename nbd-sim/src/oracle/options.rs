//! Options and their replies.

use std::collections::BTreeSet;

use super::error::{Breach, Fault};
use super::message::{BlockSizes, Context, Info, Message, OptionData, OptionReply};
use super::numbers::{self, info, opt, rep};
use super::reader::{Reader, Stop, has_namespace, string};
use super::summary::Tls;
use super::{Oracle, Phase};

impl Oracle {
    /// "The generic format of setting an option".
    pub(super) fn option(&mut self, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        match reader.u64()? {
            numbers::IHAVEOPT => {}
            other => return Err(Fault::Magic(other).into()),
        }
        let option = reader.u32()?;
        let length = reader.u32()?;
        let bytes = reader.bytes(u64::from(length))?;
        if option != opt::EXPORT_NAME && !self.server_is_fixed() {
            return Err(Fault::OptionNotFixed(option).into());
        }
        let data = match option {
            opt::EXPORT_NAME if self.summary.extended => {
                return Err(Fault::ExportNameExtended.into());
            }
            // Its server has no error reply, so a bad name is a fault and not a breach.
            opt::EXPORT_NAME => OptionData::ExportName(string(bytes)?),
            opt::LIST | opt::STARTTLS | opt::STRUCTURED_REPLY | opt::EXTENDED_HEADERS => {
                let empty = bytes.is_empty().then_some(OptionData::None);
                empty.unwrap_or_else(|| self.malformed(option, bytes))
            }
            opt::INFO | opt::GO => self.export(option, bytes),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.contexts(option, bytes),
            _ if bytes.is_empty() => OptionData::None,
            _ => OptionData::Raw(bytes.to_vec()),
        };
        let chunks = self.summary.structured || self.summary.extended;
        if option == opt::SET_META_CONTEXT && !chunks {
            self.note(Breach::ContextsTooEarly);
        }
        if option == opt::STARTTLS && self.summary.tls != Tls::Started {
            self.summary.tls = Tls::Asked;
        }
        self.phase = Phase::Reply(option);
        if option == opt::ABORT {
            self.summary.ended = true;
        }
        self.haggling.asked = Some(data.clone());
        Ok(Message::Option { option, data })
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO`: name, number of requests, requests.
    fn export(&mut self, option: u32, bytes: &[u8]) -> OptionData {
        let Some((name, requests)) = export(bytes) else {
            return self.malformed(option, bytes);
        };
        // "The client MUST NOT include any information request in the list more than once":
        // a server may answer all the same.
        let distinct: BTreeSet<_> = requests.iter().collect();
        if distinct.len() < requests.len() {
            self.note(Breach::OptionData(option));
        }
        OptionData::Export { name, requests }
    }

    /// `NBD_OPT_LIST_META_CONTEXT`: name, number of queries, queries.
    fn contexts(&mut self, option: u32, bytes: &[u8]) -> OptionData {
        let Some((name, queries)) = contexts(bytes) else {
            return self.malformed(option, bytes);
        };
        // "For requests that are semantically invalid (such as lacking the required
        // colon ...), the server MAY fail": or heed the other queries.
        if !queries.iter().all(|query| has_namespace(query)) {
            self.note(Breach::OptionData(option));
        }
        OptionData::Contexts { name, queries }
    }

    fn malformed(&mut self, option: u32, bytes: &[u8]) -> OptionData {
        self.note(Breach::OptionData(option));
        OptionData::Raw(bytes.to_vec())
    }

    /// "The server will reply to any option apart from `NBD_OPT_EXPORT_NAME`".
    pub(super) fn option_reply(
        &mut self,
        sent: u32,
        reader: &mut Reader<'_>,
    ) -> Result<Message, Stop> {
        match reader.u64()? {
            numbers::OPTION_REPLY => {}
            other => return Err(Fault::Magic(other).into()),
        }
        let option = reader.u32()?;
        let kind = reader.u32()?;
        let length = reader.u32()?;
        let bytes = reader.bytes(u64::from(length))?;
        if option != sent {
            return Err(Fault::ReplyOption { sent, found: option }.into());
        }
        let mut body = Reader::new(bytes);
        let reply = match parse_reply(option, kind, &mut body) {
            Err(Stop::Short) => return Err(Fault::ReplyLength { kind, length }.into()),
            parsed => parsed?,
        };
        if body.left() > 0 {
            return Err(Fault::ReplyLength { kind, length }.into());
        }
        self.heed(option, &reply)?;
        Ok(Message::OptionReply { option, reply })
    }
}

fn export(bytes: &[u8]) -> Option<(String, Vec<u16>)> {
    let mut reader = Reader::new(bytes);
    let name = counted_string(&mut reader)?;
    let count = reader.u16().ok()?;
    let mut requests = Vec::new();
    for _ in 0..count {
        requests.push(reader.u16().ok()?);
    }
    (reader.left() == 0).then_some((name, requests))
}

fn contexts(bytes: &[u8]) -> Option<(String, Vec<String>)> {
    let mut reader = Reader::new(bytes);
    let name = counted_string(&mut reader)?;
    let count = reader.u32().ok()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(counted_string(&mut reader)?);
    }
    (reader.left() == 0).then_some((name, queries))
}

fn counted_string(reader: &mut Reader<'_>) -> Option<String> {
    let length = reader.u32().ok()?;
    string(reader.bytes(u64::from(length)).ok()?).ok()
}

/// "Option reply types": which one fits which option, and its data.
fn parse_reply(option: u32, kind: u32, body: &mut Reader<'_>) -> Result<OptionReply, Stop> {
    let defined =
        matches!(option, opt::EXPORT_NAME..=opt::LIST | opt::STARTTLS..=opt::EXTENDED_HEADERS);
    Ok(match (option, kind) {
        (_, rep::ACK) => OptionReply::Ack,
        (_, code) if code & rep::ERROR_BIT != 0 => {
            OptionReply::Error { code, text: string(body.rest())? }
        }
        (opt::LIST, rep::SERVER) => {
            let length = body.u32()?;
            let name = string(body.bytes(u64::from(length))?)?;
            OptionReply::Server { name, description: string(body.rest())? }
        }
        (opt::INFO | opt::GO, rep::INFO) => OptionReply::Info(parse_info(body)?),
        (opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT, rep::META_CONTEXT) => {
            let id = body.u32()?;
            let name = string(body.rest())?;
            if !has_namespace(&name) {
                return Err(Fault::ContextName(name).into());
            }
            OptionReply::Context(Context { id, name })
        }
        (option, kind) if defined => return Err(Fault::ReplyKind { option, kind }.into()),
        (_, kind) => OptionReply::Other { kind, data: body.rest().to_vec() },
    })
}

/// `NBD_REP_INFO`. The lengths of the fixed types follow from their layouts.
fn parse_info(body: &mut Reader<'_>) -> Result<Info, Stop> {
    Ok(match body.u16()? {
        info::EXPORT => Info::Export { size: body.u64()?, flags: body.u16()? },
        info::NAME => Info::Name(string(body.rest())?),
        info::DESCRIPTION => Info::Description(string(body.rest())?),
        info::BLOCK_SIZE => {
            let (minimum, preferred, maximum) = (body.u32()?, body.u32()?, body.u32()?);
            let legal = minimum.is_power_of_two()
                && minimum <= 1 << 16
                && preferred.is_power_of_two()
                && preferred >= minimum.max(512)
                && maximum >= preferred;
            if !legal {
                return Err(Fault::BlockSizes { minimum, preferred, maximum }.into());
            }
            Info::BlockSize(BlockSizes { minimum, preferred, maximum })
        }
        kind => Info::Other { kind, data: body.rest().to_vec() },
    })
}
