//! Recorded sessions come to the same end, however their bytes are delivered.

use nbd_proto::CommandError;
use nbd_sim::delivery::Delivery;
use nbd_sim::oracle::Outcome;
use nbd_sim::pair::{Plan, Traffic, run};
use nbd_sim::pipe::Way;
use nbd_sim::replay::{ClientScript, ClientTrace, ServerScript};
use nbd_sim::transcript::{Side, Transcript, all};

/// Sessions of our own that are played like recorded ones.
const OWN: u64 = 60;

/// A session between our client and our server, in bursts as the client saw it.
fn own(seed: u64) -> Option<Transcript> {
    let mut plan = Plan::new(seed).smooth();
    plan.abandon_one_in = 0;
    plan.commands = plan.commands.min(20);
    plan.leave_after = plan.commands;
    plan.longest = 2048;
    let (report, Traffic { client, .. }) = run(plan).unwrap();
    report.headers?;
    let bursts = client.into_iter().map(|(way, bytes)| match way {
        Way::Sent => (Side::Client, bytes),
        Way::Seen => (Side::Server, bytes),
    });
    Some(Transcript { name: format!("seed {seed}"), bursts: bursts.collect() })
}

fn sessions() -> Vec<Transcript> {
    let mut sessions = all().unwrap();
    assert!(sessions.len() > 15, "{} transcripts", sessions.len());
    sessions.extend((0..OWN).filter_map(own));
    sessions
}

/// What our client says of each command is what the oracle says.
fn agrees(name: &str, script: &ClientScript, trace: &ClientTrace) {
    assert_eq!(trace.end, None, "{name}");
    assert_eq!(trace.results.len(), script.summary.requests.len(), "{name}");
    for (n, exchange) in script.summary.requests.iter().enumerate() {
        let result = trace.results[n];
        let at = format!("{name}, command {n}: {result:?}, {exchange:?}");
        match &exchange.outcome {
            Outcome::Pending => {
                assert_eq!(result, Some(Err(CommandError::ConnectionLost)), "{at}");
            }
            Outcome::Done => assert_eq!(result, Some(Ok(())), "{at}"),
            Outcome::Read(_) => {
                assert_eq!(result, Some(Ok(())), "{at}");
                assert_eq!(Some(&trace.buffers[n]), exchange.bytes().as_ref(), "{at}");
            }
            Outcome::Status(contexts) => {
                assert_eq!(result, Some(Ok(())), "{at}");
                let theirs: Vec<_> = contexts
                    .iter()
                    .flat_map(|(id, extents)| extents.iter().map(|e| (*id, e.length, e.flags)))
                    .collect();
                let ours: Vec<_> = trace.extents[n]
                    .iter()
                    .map(|(id, extent)| (id.0, extent.length, extent.status))
                    .collect();
                assert_eq!(ours, theirs, "{at}");
            }
            Outcome::Failed(failures) => {
                let Some(Err(CommandError::Server(errno))) = result else {
                    panic!("{at}");
                };
                assert_eq!(errno.to_wire(), failures[0].error, "{at}");
            }
        }
    }
}

#[test]
fn a_client_comes_to_the_same_end() {
    for transcript in sessions() {
        let name = &transcript.name;
        let script = ClientScript::new(&transcript).unwrap();
        let whole = script.play(Delivery::Whole, None, usize::MAX);
        agrees(name, &script, &whole);
        for delivery in Delivery::ALL {
            for direct_min in [0, 512, usize::MAX] {
                let trace = script.play(delivery, None, direct_min);
                assert_eq!(trace, whole, "{name}, {delivery:?}, {direct_min}");
            }
        }
    }
}

#[test]
fn a_client_is_cut_at_every_byte() {
    for transcript in sessions() {
        let name = &transcript.name;
        let script = ClientScript::new(&transcript).unwrap();
        let whole = script.play(Delivery::Whole, None, 0);
        // Every byte of most sessions, and a comb through the longest.
        let step = 1 + script.server_bytes() / 2000;
        for cut in (0..script.server_bytes()).step_by(step) {
            for delivery in [Delivery::Whole, Delivery::Offered] {
                let trace = script.play(delivery, Some(cut), 0);
                assert_eq!(trace, whole, "{name}, {delivery:?}, cut at {cut}");
            }
        }
    }
}

#[test]
fn a_server_comes_to_the_same_end() {
    for transcript in sessions() {
        let name = &transcript.name;
        let script = ServerScript::new(&transcript).unwrap();
        let whole = script.play(Delivery::Whole, None);
        assert_eq!(whole.end, None, "{name}");
        for delivery in Delivery::ALL {
            let trace = script.play(delivery, None);
            assert!(trace == whole, "{name}, {delivery:?}: {trace:?}");
        }
    }
}

#[test]
fn a_server_is_cut_at_every_byte() {
    for transcript in sessions() {
        let name = &transcript.name;
        let script = ServerScript::new(&transcript).unwrap();
        let whole = script.play(Delivery::Whole, None);
        let recorded = !name.starts_with("seed");
        let step = 1 + script.client_bytes() / if recorded { 2000 } else { 80 };
        for cut in (0..script.client_bytes()).step_by(step) {
            for delivery in [Delivery::Whole, Delivery::Offered] {
                let trace = script.play(delivery, Some(cut));
                assert!(trace == whole, "{name}, {delivery:?}, cut at {cut}");
            }
        }
    }
}
