//! What to ask of the server.

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
    pub(crate) uri: String,
}

impl Load {
    pub(crate) fn parse(words: &[String]) -> Outcome<Self> {
        let (uri, options) = words.split_last().ok_or("no URI")?;
        let uri = uri.clone();
        let mut load = Self { write: false, length: 4096, depth: 64, count: 100_000, uri };
        for pair in options.chunks(2) {
            let [option, value] = pair else {
                return Err(format!("{} has no value", pair.concat()).into());
            };
            match (option.as_str(), value.as_str()) {
                ("--rw", "read") => load.write = false,
                ("--rw", "write") => load.write = true,
                ("--pattern", "rand") => {}
                ("--size", size) => load.length = kilobytes(size)?,
                ("--depth", depth) => load.depth = depth.parse()?,
                ("--count", count) => load.count = count.parse()?,
                _ => return Err(format!("{option} {value} is not understood").into()),
            }
        }
        Ok(load)
    }
}

fn kilobytes(size: &str) -> Outcome<usize> {
    let kilobytes = size.strip_suffix('k').ok_or("a size is given in k")?;
    Ok(kilobytes.parse::<usize>()? << 10)
}

/// The places to go to, as many as there are requests.
#[derive(Debug)]
pub(crate) struct Places {
    state: u64,
    blocks: u64,
    length: u64,
    left: u64,
}

impl Places {
    pub(crate) fn new(load: &Load, export: u64) -> Outcome<Self> {
        let length = load.length as u64;
        let blocks = export / length;
        if blocks == 0 {
            return Err("the export is smaller than a request".into());
        }
        Ok(Self { state: 0x9e37_79b9_7f4a_7c15, blocks, length, left: load.count })
    }
}

impl Iterator for Places {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        Some(self.state % self.blocks * self.length)
    }
}
