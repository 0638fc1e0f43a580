//! What to ask of the server.

use std::time::Duration;

use nbd_client_blocking::ConnectOptions;
use nbd_transport::UriPolicy;

use crate::Outcome;

#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) write: bool,
    /// Bytes in a request.
    pub(crate) length: usize,
    /// Requests in flight.
    pub(crate) depth: usize,
    /// Requests in all.
    pub(crate) count: u64,
    /// Each block of the export once, and what it holds is known: see [`Load::pattern`].
    pub(crate) check: bool,
    /// Whether what requests took is of interest: sorting it costs instructions.
    pub(crate) latencies: bool,
    /// How long to wait awake.
    busy_poll: Option<Duration>,
    pub(crate) uri: String,
}

impl Load {
    pub(crate) fn parse(words: &[String]) -> Outcome<Self> {
        let (uri, options) = words.split_last().ok_or("no URI")?;
        let mut load = Self {
            write: false,
            length: 4096,
            depth: 64,
            count: 100_000,
            check: false,
            latencies: true,
            busy_poll: None,
            uri: uri.clone(),
        };
        for pair in options.chunks(2) {
            let [option, value] = pair else {
                return Err(format!("{} has no value", pair.concat()).into());
            };
            match (option.as_str(), value.as_str()) {
                ("--rw", "read") => load.write = false,
                ("--rw", "write") => load.write = true,
                ("--pattern", "rand") => load.check = false,
                ("--pattern", "check") => load.check = true,
                ("--pattern", "count") => load.latencies = false,
                ("--size", size) => load.length = kilobytes(size)?,
                ("--depth", depth) => load.depth = depth.parse()?,
                ("--count", count) => load.count = count.parse()?,
                ("--busy-poll-us", time) => {
                    load.busy_poll = Some(Duration::from_micros(time.parse()?));
                }
                _ => return Err(format!("{option} {value} is not understood").into()),
            }
        }
        Ok(load)
    }

    pub(crate) fn connection(&self) -> Outcome<ConnectOptions> {
        let depth = u32::try_from(self.depth)?;
        // It may name the files of certificates and keys.
        let policy = UriPolicy::default().local_files(true);
        let options = ConnectOptions::new().uri_policy(policy).uri(&self.uri)?;
        Ok(options.max_in_flight(depth).busy_poll(self.busy_poll))
    }

    /// A buffer to begin with. It is touched now, not while it is measured.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        vec![1; self.length]
    }

    /// What a block holds that is written to be looked at, or was: each eight bytes tell where
    /// they are, as those of nbdkit's plugin "pattern" do.
    pub(crate) fn pattern(at: u64) -> impl Iterator<Item = u8> {
        (at..).step_by(8).flat_map(u64::to_be_bytes)
    }

    /// Fills a buffer that is to be written, if somebody will look.
    pub(crate) fn fill(&self, buffer: &mut [u8], at: u64) {
        if self.check && self.write {
            buffer.iter_mut().zip(Self::pattern(at)).for_each(|(byte, known)| *byte = known);
        }
    }

    /// Looks at what was read, if it is known.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn check(&self, buffer: &[u8], at: u64) -> Outcome<()> {
        if self.check
            && !self.write
            && !Self::pattern(at).take(buffer.len()).eq(buffer.iter().copied())
        {
            return Err(format!("what was read at {at} is wrong").into());
        }
        Ok(())
    }
}

fn kilobytes(size: &str) -> Outcome<usize> {
    let kilobytes = size.strip_suffix('k').ok_or("a size is given in k")?;
    Ok(kilobytes.parse::<usize>()? << 10)
}

/// The offsets to go to, as many as there are requests.
#[derive(Debug)]
pub(crate) struct Offsets {
    state: u64,
    blocks: u64,
    length: u64,
    left: u64,
    in_order: bool,
}

impl Offsets {
    pub(crate) fn new(load: &Load, export: u64) -> Outcome<Self> {
        let length = load.length as u64;
        let blocks = export / length;
        if blocks == 0 {
            return Err("the export is smaller than a request".into());
        }
        let left = if load.check { blocks } else { load.count };
        Ok(Self { state: 0x9e37_79b9_7f4a_7c15, blocks, length, left, in_order: load.check })
    }

    /// How many are left.
    pub(crate) const fn left(&self) -> u64 {
        self.left
    }
}

impl Iterator for Offsets {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        if self.in_order {
            return Some((self.blocks - 1 - self.left) * self.length);
        }
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        Some(self.state % self.blocks * self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(words: &str) -> Load {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        Load::parse(&words).expect("a load")
    }

    #[test]
    fn a_check_goes_everywhere_once() {
        let offsets = Offsets::new(&load("--pattern check --size 4k nbd://h"), 5 * 4096 + 7);
        let offsets: Vec<_> = offsets.expect("five blocks").collect();
        assert_eq!(offsets, [0, 4096, 8192, 12288, 16384]);
    }

    #[test]
    fn wrong_data_is_seen() {
        let (write, read) =
            (load("--pattern check --rw write nbd://h"), load("--pattern check nbd://h"));
        let mut block = write.buffer();
        write.fill(&mut block, 8192);
        assert_eq!(block[..16], [0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0x20, 8]);
        assert!(read.check(&block, 8192).is_ok());
        assert!(read.check(&block, 4096).is_err());
        block[4095] ^= 1;
        assert!(read.check(&block, 8192).is_err());
        assert!(load("nbd://h").check(&block, 8192).is_ok(), "nobody looks");
    }
}
