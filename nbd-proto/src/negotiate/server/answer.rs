//! Answers to options.

use alloc::vec::Vec;

use super::Core;
use crate::negotiate::facts::ExportInfo;
use crate::types::HeaderStyle;
use crate::wire::cut;
use crate::wire::flags::HandshakeFlags;
use crate::wire::greeting::{ExportHeader, ZERO_PADDING};
use crate::wire::option::{
    Info, InfoRequest, InfoType, OptionCode, OptionReplyHeader, RefusalCode, ReplyType,
};

impl Core {
    pub(super) fn reply(&mut self, option: u32, kind: ReplyType, write: impl FnOnce(&mut Vec<u8>)) {
        let mut data = Vec::new();
        write(&mut data);
        let header = OptionReplyHeader { option, kind: kind.to_wire(), length: data.len() as u32 };
        self.outbox.push_body(None, &header.encode(), |body| body.append(&mut data));
    }

    pub(super) fn refuse(&mut self, option: u32, code: RefusalCode, message: &str) {
        self.reply(option, ReplyType::Refused(code), |data| {
            data.extend_from_slice(cut(message).as_bytes());
        });
    }

    pub(super) fn send_info(
        &mut self,
        option: OptionCode,
        request: &InfoRequest,
        export: ExportInfo,
    ) {
        let asked = |kind: InfoType| request.info.contains(&kind.to_wire());
        let name = export.canonical_name.filter(|_| asked(InfoType::Name));
        let text = export.description.filter(|_| asked(InfoType::Description));
        let sizes = export.block_sizes.filter(|_| asked(InfoType::BlockSize));
        let facts = [
            Some(Info::Export(export.size, export.flags)),
            name.map(Info::Name),
            text.map(Info::Description),
            sizes.map(Info::BlockSize),
        ];
        for info in facts.into_iter().flatten() {
            self.reply(option.to_wire(), ReplyType::Info, |data| info.encode(data));
        }
        self.reply(option.to_wire(), ReplyType::Ack, |_| {});
    }

    pub(super) fn send_export_header(&mut self, export: &ExportInfo) {
        let header = ExportHeader { size: export.size, flags: export.flags };
        let padded = !self.facts.handshake_flags.contains(HandshakeFlags::NO_ZEROES);
        self.outbox.push_body(None, &header.encode_newstyle(), |body| {
            if padded {
                body.extend_from_slice(&[0; ZERO_PADDING]);
            }
        });
    }

    pub(super) const fn is_extended(&self) -> bool {
        matches!(self.facts.headers, HeaderStyle::Extended)
    }
}
