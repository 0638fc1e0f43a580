//! Whether two servers can be taken for one another.

use nbd_client_blocking::proto::{ExportInfo, Negotiated, TransmissionFlags};

/// Compares what a command has come to rely on. With `spread`, connections to both are in use at
/// the same time.
///
/// # Errors
/// In which way they differ, in words.
pub(super) fn check(one: &Negotiated, other: &Negotiated, spread: bool) -> Result<(), String> {
    let (Some(here), Some(there)) = (&one.export, &other.export) else {
        return Err("one of them does not describe the export".to_owned());
    };
    check_export(here, there)?;
    if spread && !both(here, there).contains(TransmissionFlags::CAN_MULTI_CONN) {
        return Err("one of them does not say that several connections are safe".to_owned());
    }
    if one.headers != other.headers {
        return Err(format!("one speaks {:?} headers, the other {:?}", one.headers, other.headers));
    }
    let contexts = |facts: &Negotiated| {
        let mut names: Vec<_> = facts.contexts.iter().map(|it| it.name.clone()).collect();
        names.sort();
        names
    };
    if contexts(one) != contexts(other) {
        return Err("they do not have the same meta contexts".to_owned());
    }
    Ok(())
}

fn check_export(here: &ExportInfo, there: &ExportInfo) -> Result<(), String> {
    if here.size != there.size {
        return Err(format!("{} bytes and {} bytes", here.size, there.size));
    }
    if here.is_read_only() != there.is_read_only() {
        return Err("one is read-only".to_owned());
    }
    // How the disk turns is advice, and what several connections are worth is another question.
    let advice = TransmissionFlags::HAS_FLAGS
        | TransmissionFlags::ROTATIONAL
        | TransmissionFlags::CAN_MULTI_CONN;
    let differing = here.flags.symmetric_difference(there.flags).difference(advice);
    if !differing.is_empty() {
        return Err(format!("only one of them offers {differing:?}"));
    }
    let blocks =
        |export: &ExportInfo| export.block_sizes.map(|sizes| (sizes.minimum.max(1), sizes.maximum));
    if blocks(here) != blocks(there) {
        let told = |export| match blocks(export) {
            Some((minimum, maximum)) => format!("from {minimum} to {maximum} bytes"),
            None => "that it does not tell".to_owned(),
        };
        return Err(format!("one takes blocks {}, the other {}", told(here), told(there)));
    }
    Ok(())
}

fn both(here: &ExportInfo, there: &ExportInfo) -> TransmissionFlags {
    here.flags & there.flags
}

#[cfg(test)]
mod tests {
    use nbd_client_blocking::proto::{BlockSizes, ContextId, HeaderStyle, MetaContext};

    use super::*;

    fn facts() -> Negotiated {
        let flags = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::CAN_MULTI_CONN;
        let mut export = ExportInfo::new(1 << 20, flags);
        export.block_sizes = Some(BlockSizes { minimum: 1, preferred: 4096, maximum: 1 << 25 });
        Negotiated::new(export)
    }

    fn difference(spread: bool, change: impl Fn(&mut Negotiated, &mut ExportInfo)) -> String {
        let mut other = facts();
        let mut export = other.export.take().unwrap();
        change(&mut other, &mut export);
        other.export = Some(export);
        let told = [check(&facts(), &other, spread), check(&other, &facts(), spread)];
        assert_eq!(told[0].is_ok(), told[1].is_ok(), "it does not matter which is first");
        told[0].clone().err().unwrap_or_default()
    }

    #[test]
    fn servers_that_differ_in_what_counts_are_told_apart() {
        assert_eq!(difference(true, |_, _| ()), "");
        let told = difference(false, |_, export| export.size += 512);
        assert_eq!(told, "1048576 bytes and 1049088 bytes");
        let told = difference(false, |_, export| export.flags |= TransmissionFlags::READ_ONLY);
        assert!(told.contains("read-only"), "{told}");
        let told = difference(false, |_, export| export.flags |= TransmissionFlags::SEND_TRIM);
        assert!(told.contains("SEND_TRIM"), "{told}");
        let told = difference(false, |_, export| export.block_sizes = None);
        assert!(told.contains("from 1 to 33554432 bytes"), "{told}");
        let told = difference(false, |facts, _| facts.headers = HeaderStyle::Structured);
        assert!(told.contains("Structured"), "{told}");
        let context = MetaContext { id: ContextId(1), name: "base:allocation".to_owned() };
        let told = difference(false, |facts, _| facts.contexts.push(context.clone()));
        assert!(told.contains("meta contexts"), "{told}");
    }

    #[test]
    fn what_several_connections_are_worth_matters_where_they_are_spread() {
        let alone = |_: &mut Negotiated, export: &mut ExportInfo| {
            export.flags.remove(TransmissionFlags::CAN_MULTI_CONN);
        };
        assert_eq!(difference(false, alone), "");
        assert!(difference(true, alone).contains("several connections"));
        let advice = |_: &mut Negotiated, export: &mut ExportInfo| {
            export.flags |= TransmissionFlags::ROTATIONAL;
        };
        assert_eq!(difference(false, advice), "");
    }
}
