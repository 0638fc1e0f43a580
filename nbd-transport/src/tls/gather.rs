//! Many small pieces, few records.

use std::io::IoSlice;

/// The most plaintext one record carries, in bytes.
const RECORD: usize = 16 << 10;

/// Hands `pieces` to `seal` in portions that fill whole records, up to `limit` bytes in all.
/// Returns how many bytes that was.
///
/// Encrypting is done record by record, each with its own cost and its own 22 bytes or more on the
/// wire. So small pieces are collected until they fill a record; what is large goes through without
/// being copied, but for the part that completes the record begun before it.
pub(super) fn gather<E>(
    pieces: &[IoSlice<'_>],
    limit: usize,
    staging: &mut Vec<u8>,
    mut seal: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<usize, E> {
    let mut left = limit;
    staging.clear();
    for piece in pieces {
        let (mut rest, _) = piece.split_at(piece.len().min(left));
        left -= rest.len();
        if !staging.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(RECORD - staging.len()));
            staging.extend_from_slice(head);
            rest = tail;
            if staging.len() == RECORD {
                seal(staging)?;
                staging.clear();
            }
        }
        let (whole, tail) = rest.split_at(rest.len() / RECORD * RECORD);
        if !whole.is_empty() {
            seal(whole)?;
        }
        staging.extend_from_slice(tail);
    }
    if !staging.is_empty() {
        seal(staging)?;
    }
    Ok(limit - left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// The lengths of the portions, after a check that they carry the same bytes.
    fn portions(lengths: &[usize], limit: usize) -> Vec<usize> {
        let pieces: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(i, len)| (0..*len).map(|j| (i * 7 + j) as u8).collect())
            .collect();
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let (mut sealed, mut portions) = (Vec::new(), Vec::new());
        let taken = gather(&slices, limit, &mut Vec::new(), |bytes| {
            sealed.extend_from_slice(bytes);
            portions.push(bytes.len());
            Ok::<(), Infallible>(())
        });
        let all = pieces.concat();
        assert_eq!(taken, Ok(all.len().min(limit)));
        assert_eq!(sealed, all[..all.len().min(limit)]);
        portions
    }

    #[test]
    fn headers_share_a_record() {
        assert_eq!(portions(&[28; 64], 1 << 20), [28 * 64]);
        assert_eq!(portions(&[28; 600], 1 << 20), [RECORD, 600 * 28 - RECORD]);
    }

    #[test]
    fn a_payload_completes_the_record_of_its_header_and_is_not_copied_beyond() {
        let rest = 256 << 10;
        assert_eq!(portions(&[28, rest, 28], 1 << 20), [RECORD, rest - RECORD, 28 + 28]);
    }

    #[test]
    fn the_limit_may_fall_anywhere() {
        for limit in [0, 1, 28, 29, RECORD, RECORD + 28, 3 * RECORD - 1] {
            portions(&[28, 2 * RECORD, 28, 40, RECORD], limit);
        }
    }
}
