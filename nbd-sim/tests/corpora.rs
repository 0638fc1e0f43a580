//! The fuzzer's seeds, and every input that once broke something, played again.

use std::path::{Path, PathBuf};
use std::{env, fs};

use nbd_sim::fuzzing::{TARGETS, Target, seeds};

/// The inputs of a directory with their names; it must be there.
fn inputs(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let paths = entries.map(|entry| entry.expect("an entry of a directory").path());
    paths.map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    inputs(&seeds::directory().join(target))
}

#[test]
fn every_seed_is_taken() {
    for (name, run) in TARGETS {
        let corpus = corpus(name);
        assert!(corpus.len() > 3, "{name} has {} seeds", corpus.len());
        for (path, bytes) in corpus {
            eprintln!("{}", path.display());
            run(&bytes);
        }
    }
}

/// Every prefix, and every byte changed, of the shorter seeds.
#[test]
fn nor_does_harm_come_from_what_is_near() {
    for (name, run) in TARGETS {
        for (path, bytes) in corpus(name).iter().filter(|(_, bytes)| bytes.len() <= 400) {
            eprintln!("{}", path.display());
            around(*run, bytes);
        }
    }
}

fn around(run: Target, bytes: &[u8]) {
    for length in (0..bytes.len()).step_by(3) {
        run(&bytes[..length]);
    }
    let mut changed = bytes.to_vec();
    for at in 0..bytes.len() {
        for bits in [1, 0x80, 0xff] {
            changed[at] ^= bits;
            run(&changed);
            changed[at] ^= bits;
        }
    }
}

/// The seeds are those of the recorded sessions; `NBD_UPDATE_SEEDS` writes them.
#[test]
fn the_seeds_are_up_to_date() {
    for seed in seeds::recorded().expect("recorded sessions") {
        let directory = seeds::directory().join(seed.target);
        let path = directory.join(&seed.name);
        if env::var_os("NBD_UPDATE_SEEDS").is_some() {
            fs::create_dir_all(&directory).expect("a directory for seeds");
            fs::write(&path, &seed.bytes).expect("a new seed");
        }
        let committed = fs::read(&path).unwrap_or_default();
        assert!(committed == seed.bytes, "{} is old: set NBD_UPDATE_SEEDS", path.display());
    }
}
