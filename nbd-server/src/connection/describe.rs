//! How clients are told about an export.

use nbd_proto::{BlockSizes, ExportInfo, TransmissionFlags};

use crate::export::Abilities;
use crate::exports::Opened;

/// The meta context that every export has (proto.md, "`base:` meta context").
pub(crate) const ALLOCATION: &str = "base:allocation";

/// An export as it is described to a client that may send `max_payload` bytes in one request.
pub(crate) fn describe(opened: &Opened, max_payload: u32) -> ExportInfo {
    let sizes = block_sizes(opened.export.block_sizes(), max_payload);
    // proto.md, "Size constraints": the size should be a multiple of the minimum.
    let size = opened.export.size() & !u64::from(sizes.minimum - 1);
    let mut described = ExportInfo::new(size, flags(opened));
    described.block_sizes = Some(sizes);
    described.canonical_name = Some(opened.name.clone());
    described.description = opened.description();
    described
}

/// What the protocol allows of what an export says (proto.md, "Size constraints").
fn block_sizes(said: BlockSizes, max_payload: u32) -> BlockSizes {
    let minimum = said.minimum.clamp(1, 1 << 16).next_power_of_two();
    let maximum = said.maximum.min(max_payload).max(1 << 16) & !(minimum - 1);
    let largest = 1 << maximum.ilog2();
    let preferred = said.preferred.clamp(minimum.max(512), largest).next_power_of_two();
    BlockSizes { minimum, preferred, maximum }
}

/// What clients may ask for. The negotiation takes out what needs
/// structured replies or extended headers when those are not agreed on.
fn flags(opened: &Opened) -> TransmissionFlags {
    use TransmissionFlags as Flag;
    let can = opened.export.abilities();
    let mut flags = Flag::SEND_FLUSH | Flag::SEND_FUA | Flag::SEND_DF | Flag::BLOCK_STATUS_PAYLOAD;
    flags.set(Flag::SEND_CACHE, can.contains(Abilities::CACHE));
    flags.set(Flag::ROTATIONAL, can.contains(Abilities::ROTATIONAL));
    let writable = can.contains(Abilities::WRITE);
    flags.set(Flag::CAN_MULTI_CONN, can.contains(Abilities::MULTI_CONN) || !writable);
    if opened.read_only || !writable {
        return flags | Flag::READ_ONLY;
    }
    flags |= Flag::SEND_WRITE_ZEROES;
    flags.set(Flag::SEND_TRIM, can.contains(Abilities::TRIM));
    flags.set(Flag::SEND_FAST_ZERO, can.contains(Abilities::FAST_ZERO));
    flags
}
