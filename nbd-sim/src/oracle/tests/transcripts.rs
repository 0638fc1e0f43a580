//! Every recorded session, whole, and what is known to have happened in some of them.

use super::super::{
    BlockSizes, Breach, Command, Extent, Message, Oracle, Outcome, Piece, Style, Summary, Tls,
};
use crate::transcript::{Side, Transcript, all};

fn follow(name: &str) -> Oracle {
    let transcript = Transcript::load(name).unwrap_or_else(|error| panic!("{error}"));
    Oracle::follow(&transcript).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn summary(name: &str) -> Summary {
    follow(name).summary().clone()
}

fn errors(summary: &Summary) -> Vec<(Command, u32)> {
    let failed = summary.requests.iter();
    failed.filter_map(|exchange| Some((exchange.request.command, exchange.error()?))).collect()
}

fn extents(pairs: &[(u64, u64)]) -> Vec<Extent> {
    pairs.iter().map(|&(length, flags)| Extent { length, flags }).collect()
}

#[test]
fn every_transcript_is_legal_to_its_last_byte() {
    let transcripts = all().unwrap();
    assert!(transcripts.len() >= 18, "{} transcripts", transcripts.len());
    for transcript in transcripts {
        let name = &transcript.name;
        let oracle = follow(name);
        assert!(oracle.summary().ended, "{name}");
        let unanswered = |request: &super::super::Exchange| request.outcome == Outcome::Pending;
        assert!(!oracle.summary().requests.iter().any(unanswered), "{name}");
    }
}

#[test]
fn bytes_may_be_cut_anywhere() {
    for transcript in all().unwrap() {
        let whole = Oracle::follow(&transcript).unwrap();
        for size in [1, 7, 4096] {
            // Single bytes of a large transcript tell nothing that small ones do not.
            let total: usize = transcript.bursts.iter().map(|(_, bytes)| bytes.len()).sum();
            if size < 4096 && total > 20_000 {
                continue;
            }
            let mut oracle = Oracle::new();
            for (side, bytes) in &transcript.bursts {
                for piece in bytes.chunks(size) {
                    match side {
                        Side::Client => oracle.client_bytes(piece).unwrap(),
                        Side::Server => oracle.server_bytes(piece).unwrap(),
                    }
                }
            }
            assert_eq!(oracle.finish().unwrap(), whole.summary(), "{}", transcript.name);
            assert_eq!(oracle.messages(), whole.messages(), "{}", transcript.name);
        }
    }
}

#[test]
fn the_three_old_handshakes() {
    for (name, style, no_zeroes, export) in [
        ("nbdkit-oldstyle", Style::Oldstyle, false, None),
        ("nbdkit-newstyle-zeroes", Style::Newstyle, false, Some("name")),
        ("nbdkit-newstyle-no-zeroes", Style::Newstyle, true, Some("")),
    ] {
        let summary = summary(name);
        assert_eq!(summary.style, Some(style), "{name}");
        assert_eq!(summary.no_zeroes, no_zeroes, "{name}");
        assert_eq!(summary.export_name.as_deref(), export, "{name}");
        assert_eq!(summary.size, Some(1 << 20), "{name}");
        assert!(!summary.structured && !summary.extended, "{name}");
        let read = summary.exchanges(Command::Read).next().unwrap().bytes().unwrap();
        assert_eq!(read, [&[0; 4][..], &[b'Z'; 16], &[0; 12]].concat(), "{name}");
    }
    assert_eq!(errors(&summary("nbdkit-oldstyle")), [(Command::Flush, 22)]);
}

#[test]
fn simple_replies_and_errors() {
    let simple = summary("nbdkit-simple");
    assert_eq!(simple.style, Some(Style::FixedNewstyle));
    assert!(!simple.structured);
    assert_eq!(simple.refusals.first().map(|refusal| refusal.0), Some(8));
    assert_eq!(errors(&simple), [(Command::Read, 22), (Command::Write, 28)]);
    let breaches: Vec<_> = simple.breaches.iter().map(|(_, breach)| breach).collect();
    assert_eq!(breaches, [&Breach::BeyondEnd, &Breach::BeyondEnd]);
}

#[test]
fn every_command_with_structured_replies() {
    let summary = summary("nbdkit-structured");
    assert!(summary.structured && !summary.extended);
    assert_eq!(summary.contexts.len(), 1);
    assert_eq!((summary.contexts[0].id, summary.contexts[0].name.as_str()), (1, "base:allocation"));
    for command in [
        Command::Read,
        Command::Write,
        Command::Flush,
        Command::Trim,
        Command::Cache,
        Command::WriteZeroes,
        Command::BlockStatus,
    ] {
        assert!(summary.exchanges(command).next().unwrap().error().is_none(), "{command:?}");
    }
    let status: Vec<_> = summary.exchanges(Command::BlockStatus).map(|e| &e.outcome).collect();
    assert_eq!(
        status,
        [
            &Outcome::Status(vec![(1, extents(&[(32768, 0), (1_015_808, 3)]))]),
            &Outcome::Status(vec![(1, extents(&[(32768, 0)]))]),
        ]
    );
    let failed = [
        (Command::Read, 22),
        (Command::Write, 28),
        (Command::WriteZeroes, 28),
        (Command::Trim, 22),
        (Command::Read, 22),
    ];
    assert_eq!(errors(&summary), failed);
}

#[test]
fn errors_of_a_failing_backend() {
    use Command::{Cache, Read, Write, WriteZeroes};
    let failing = summary("nbdkit-errors");
    assert_eq!(errors(&failing), [(Read, 1), (Write, 28), (WriteZeroes, 12), (Cache, 5)]);
    assert_eq!(errors(&summary("nbdkit-fast-zero")), [(WriteZeroes, 95)]);
}

#[test]
fn block_sizes_bind_a_copy() {
    let summary = summary("nbdkit-block-size");
    let sizes = BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 20 };
    assert_eq!(summary.block_sizes, Some(sizes));
    assert!(summary.breaches.is_empty());
}

#[test]
fn lists_refusals_and_descriptions() {
    let listed = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let nbdkit = summary("nbdkit-list");
    assert_eq!(nbdkit.exports, [listed("hello", "world"), listed("goodbye", "world")]);
    assert_eq!(nbdkit.refusals, [(6, 0x8000_0006, String::new())]);
    assert_eq!((nbdkit.size, nbdkit.ended), (None, true));

    let mode = summary("nbdkit-opt-mode");
    assert_eq!(mode.export_name.as_deref(), Some("hello"));
    assert_eq!(mode.canonical_name.as_deref(), Some("hello"));
    assert_eq!(mode.description.as_deref(), Some("world"));
    assert_eq!(mode.contexts.len(), 1);

    let qemu = summary("qemu-info");
    assert_eq!(qemu.exports, [listed("hello", "world")]);
    let codes: Vec<_> = qemu.refusals.iter().map(|(option, code, _)| (*option, *code)).collect();
    assert_eq!(codes, [(6, 0x8000_0008), (6, 0x8000_0006)]);
    assert_eq!(qemu.refusals[1].2, "export 'none' not present");

    let reference = summary("nbd-server-list");
    assert_eq!(reference.exports, [listed("rw", ""), listed("ro", "")]);
    assert_eq!(reference.size, Some(1 << 20));
    assert_eq!(errors(&reference), [(Command::Write, 1)]);
}

#[test]
fn starttls_is_refused() {
    assert_eq!(summary("nbdkit-starttls-refused").tls, Tls::Refused(0x8000_0002));
    assert_eq!(summary("nbdkit-simple").tls, Tls::NotAsked);
}

#[test]
fn holes_several_chunks_and_an_error_with_text() {
    let summary = summary("qemu-structured");
    let reads: Vec<_> = summary.exchanges(Command::Read).collect();
    let Outcome::Read(pieces) = &reads[0].outcome else { panic!("{:?}", reads[0].outcome) };
    let holes = pieces.iter().filter(|piece| matches!(piece, Piece::Hole(..))).count();
    assert_eq!((pieces.len(), holes), (5, 3));
    let bytes = reads[0].bytes().unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert_eq!((bytes[0], bytes[65536], bytes[131_072], bytes[196_608]), (1, 2, 3, 0));
    assert_eq!(reads[1].request.flags, 4);
    assert!(matches!(&reads[1].outcome, Outcome::Read(pieces) if pieces.len() == 1));
    assert_eq!(reads[2].outcome, Outcome::Read(Vec::new()));
    let Outcome::Failed(failures) = &reads[3].outcome else { panic!("{:?}", reads[3].outcome) };
    assert_eq!(failures[0].error, 22);
    assert!(failures[0].message.contains("past EOF"), "{}", failures[0].message);
}

#[test]
fn several_contexts_at_once() {
    let summary = summary("qemu-contexts");
    let mut ids: Vec<_> = summary.contexts.iter().map(|context| context.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3]);
    let id_of = |name| summary.contexts.iter().find(|context| context.name == name).unwrap().id;
    let status: Vec<_> = summary.exchanges(Command::BlockStatus).collect();
    let Outcome::Status(contexts) = &status[0].outcome else { panic!("{:?}", status[0]) };
    let bitmap = contexts.iter().find(|(id, _)| *id == id_of("qemu:dirty-bitmap:bitmap0"));
    let dirty = [(131_072, 0), (65536, 1), (327_680, 0), (65536, 1), (458_752, 0)];
    assert_eq!(bitmap.unwrap().1, extents(&dirty));
    let Outcome::Status(contexts) = &status[1].outcome else { panic!("{:?}", status[1]) };
    assert!(contexts.iter().all(|(_, extents)| extents.len() == 1));
}

#[test]
fn extended_headers() {
    let oracle = follow("qemu-extended");
    let summary = oracle.summary();
    assert!(summary.extended && !summary.structured);
    assert_eq!(summary.size, Some(10 << 40));
    let zero = summary.exchanges(Command::WriteZeroes).next().unwrap();
    assert_eq!((zero.request.offset, zero.effect), (5 << 30, 6 << 30));
    assert_eq!(zero.outcome, Outcome::Done);
    let reads: Vec<_> = summary.exchanges(Command::Read).collect();
    assert_eq!(reads[0].bytes().unwrap(), vec![5; 8192]);
    assert!(matches!(&reads[1].outcome, Outcome::Read(pieces) if pieces.len() == 2));
    // This client leaves out a flag that the protocol text demands.
    let breaches: Vec<_> = summary.breaches.iter().map(|(_, breach)| breach).collect();
    assert_eq!(breaches, [&Breach::NoPayloadFlag, &Breach::NoPayloadFlag]);
    let (index, _) = summary.breaches[0];
    assert!(
        matches!(&oracle.messages()[index], Message::Request(r) if r.command == Command::Write)
    );
}

#[test]
fn extended_block_status() {
    let summary = summary("qemu-extended-map");
    let wide = |exchange: &super::super::Exchange| match &exchange.outcome {
        Outcome::Status(contexts) => {
            contexts.iter().flat_map(|(_, extents)| extents).any(|e| e.length > u64::from(u32::MAX))
        }
        other => panic!("{other:?}"),
    };
    assert!(summary.exchanges(Command::BlockStatus).any(wide));
}
