//! Extents of whole exports: merged, cut and in order, by however many requests.

use nbd_client_blocking::Client;
use nbd_client_blocking::proto::{ClientConfig, CommandFlags, Extent};
use nbd_sim::peer::{Scratch, Server, run, tool};

use crate::support::{MIB, Qemu, connect, nbdkit, qemu};

const HOLE: u64 = Extent::HOLE | Extent::ZERO;

fn allocation() -> ClientConfig {
    ClientConfig::new().meta_context("base:allocation")
}

fn extents(
    client: &mut Client,
    context: &str,
    range: std::ops::Range<u64>,
) -> Vec<(u64, u64, u64)> {
    let found = client.extents(context, range).expect("it was granted");
    found
        .map(|placed| placed.expect("it is told"))
        .map(|placed| (placed.offset, placed.extent.length, placed.extent.status))
        .collect()
}

#[test]
fn windows_are_joined() {
    // Compact and extended headers: data at the edges of the first windows, and across one.
    let compact = nbdkit(&["memory", "1G"]);
    let Qemu { server: extended, .. } = &qemu(1 << 30, &[]);
    for server in [&compact, extended] {
        let mut client = connect(server, allocation());
        let edge = 64 * MIB;
        for offset in [0, edge - 65536, edge, 2 * edge, (1 << 30) - 65536] {
            client.write_all_at(&[1; 65536], offset).expect("it is written");
        }
        client.flush().expect("it is flushed");
        let expected = [
            (0, 65536, 0),
            (65536, edge - 131_072, HOLE),
            (edge - 65536, 131_072, 0),
            (edge + 65536, edge - 65536, HOLE),
            (2 * edge, 65536, 0),
            (2 * edge + 65536, (1 << 30) - 2 * edge - 131_072, HOLE),
            ((1 << 30) - 65536, 65536, 0),
        ];
        assert_eq!(extents(&mut client, "base:allocation", 0..1 << 30), expected);
        // A range of its own cuts what reaches beyond it.
        assert_eq!(
            extents(&mut client, "base:allocation", 32768..edge),
            [(32768, 32768, 0), (65536, edge - 131_072, HOLE), (edge - 65536, 65536, 0),]
        );
        assert!(extents(&mut client, "base:allocation", 4096..4096).is_empty());
        client.read_exact_at(&mut [0; 512], 0).expect("the connection is unharmed");
    }
}

/// A server that tells one extent at a time, however much is asked.
#[test]
fn short_answers_are_followed_up() {
    let server = nbdkit(&[
        "eval",
        "get_size=echo 4M",
        "pread=exit 1",
        "can_extents=exit 0",
        "extents=echo $4 32768 $(( ($4 / 65536) % 2 ))",
    ]);
    let mut client = connect(&server, allocation());
    let found = extents(&mut client, "base:allocation", 0..4 * MIB);
    let expected: Vec<_> = (0..64).map(|i| (i * 65536, 65536, i % 2)).collect();
    assert_eq!(found, expected);
}

#[test]
fn many_requests_are_in_flight_and_few_are_made() {
    // A terabyte of nothing, in lengths of 32 bits.
    let server = nbdkit(&["memory", "1T"]);
    let mut client = connect(&server, allocation());
    let before = client.session().stats().wire.messages_sent;
    assert_eq!(extents(&mut client, "base:allocation", 0..1 << 40), [(0, 1 << 40, HOLE)]);
    let asked = client.session().stats().wire.messages_sent - before;
    assert!((256..400).contains(&asked), "{asked} requests");
    // And of 64 bits.
    let Qemu { server, .. } = &qemu(1 << 40, &[]);
    let mut client = connect(server, allocation());
    let before = client.session().stats().wire;
    assert_eq!(extents(&mut client, "base:allocation", 0..1 << 40), [(0, 1 << 40, HOLE)]);
    let after = client.session().stats().wire;
    let asked = after.messages_sent - before.messages_sent;
    assert!(asked < 60, "{asked} requests");
    let writes = after.writes - before.writes;
    assert!(writes + 3 <= asked, "the first ones went out one by one: {writes} of {asked}");
}

#[test]
fn several_contexts_at_once_and_a_selection() {
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.qcow2_image("disk", 256 * MIB).expect("an image is made");
    for bitmap in ["monday", "tuesday"] {
        let mut add = tool("qemu-img").expect("it is installed");
        add.args(["bitmap", "--add", "--enable", "-f", "qcow2"]).arg(&image).arg(bitmap);
        run(&mut add).and_then(|done| done.success()).expect("the bitmap is added");
        let mut write = tool("qemu-io").expect("it is installed");
        let at = if bitmap == "monday" { "write 1M 1M" } else { "write 100M 128k" };
        write.args(["-f", "qcow2", "-c", at]).arg(&image);
        run(&mut write).and_then(|done| done.success()).expect("it is written");
    }
    let server = Server::qemu_nbd(&["-f", "qcow2", "-A", "-B", "monday", "-B", "tuesday"])
        .arg(&image)
        .start()
        .expect("qemu-nbd starts");
    let names = ["base:allocation", "qemu:dirty-bitmap:monday", "qemu:dirty-bitmap:tuesday"];
    let config = names.iter().fold(ClientConfig::new(), |config, name| config.meta_context(*name));
    for config in [config.clone(), config.extended_headers(false)] {
        let mut client = connect(&server, config);
        let alone: Vec<_> =
            names.iter().map(|name| extents(&mut client, name, 0..256 * MIB)).collect();
        assert_eq!(
            alone[2],
            [
                (0, 100 * MIB, 0),
                (100 * MIB, 131_072, 1),
                (100 * MIB + 131_072, 156 * MIB - 131_072, 0)
            ]
        );
        let ids = names.map(|name| client.context(name).expect("it was granted"));
        for chosen in [&[0, 1, 2][..], &[2, 0], &[1], &[]] {
            let asked: Vec<&str> = chosen.iter().map(|index| names[*index]).collect();
            let walk = client.context_extents(&asked, 0..256 * MIB).expect("they were granted");
            // Without names it is the server's own order.
            let which: Vec<usize> = walk
                .contexts()
                .iter()
                .map(|id| ids.iter().position(|known| known == id).expect("it is one of them"))
                .collect();
            assert!(chosen.is_empty() || which == chosen);
            assert_eq!(which.len(), if chosen.is_empty() { 3 } else { chosen.len() });
            let segments: Vec<_> = walk.map(|segment| segment.expect("it is told")).collect();
            let mut next = 0;
            for segment in &segments {
                assert_eq!(segment.offset, next);
                next += segment.length;
                for (status, index) in segment.statuses.iter().zip(&which) {
                    let inside = alone[*index].iter().find(|(offset, length, _)| {
                        (*offset..offset + length).contains(&segment.offset)
                    });
                    let (offset, length, expected) = inside.expect("each has all of it");
                    assert_eq!(status, expected, "{} at {}", names[*index], segment.offset);
                    assert!(next <= offset + length, "cut where {} changes", names[*index]);
                }
            }
            assert_eq!(next, 256 * MIB);
            let differ = segments.windows(2).all(|two| two[0].statuses != two[1].statuses);
            assert!(differ, "neighbours are merged");
        }
        assert!(client.context_extents(&["base:nothing"], 0..MIB).is_err());
    }
}

#[test]
fn one_request_for_some_of_the_contexts() {
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.qcow2_image("disk", MIB).expect("an image is made");
    let server =
        Server::qemu_nbd(&["-f", "qcow2", "-A"]).arg(&image).start().expect("qemu-nbd starts");
    let mut client = connect(&server, allocation().meta_context("qemu:allocation-depth"));
    assert!(client.export().can_block_status_payload());
    let depth = client.context("qemu:allocation-depth").expect("it was granted");
    let seen = client.block_status_filtered(0, MIB, CommandFlags::empty(), &[depth]);
    let seen = seen.expect("it is told");
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].0, seen[0].1.length), (depth, MIB));
    let seen = client.block_status(0, MIB, CommandFlags::empty()).expect("it is told");
    assert_eq!(seen.len(), 2);
}

#[test]
fn an_error_ends_it() {
    let server = nbdkit(&[
        "eval",
        "get_size=echo 256M",
        "pread=exit 1",
        "can_extents=exit 0",
        "extents=if [ $4 -ge 134217728 ]; then echo EIO nothing here >&2; exit 1; \
         else echo $4 $3; fi",
    ]);
    let mut client = connect(&server, allocation());
    let mut found = client.extents("base:allocation", 0..256 * MIB).expect("it was granted");
    let first = found.next().expect("there is some").expect("it is told");
    assert_eq!((first.offset, first.extent.length), (0, 128 * MIB));
    let error = found.next().expect("there is more").expect_err("it fails");
    assert_eq!(error.errno(), 5, "{error}");
    assert!(found.next().is_none());
    drop(found);
    client.flush().ok();
    assert_eq!(client.state(), nbd_client_blocking::State::Ready, "the connection is unharmed");
}
