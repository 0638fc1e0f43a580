//! Memory that is lent to a connection and given back.

use std::any::Any;

use bytes::{Bytes, BytesMut};
use nbd_session::PooledBuffer;

/// The memory of one call. The usual types are kept as they are; any other is boxed.
#[derive(Default)]
pub(crate) enum Buffer {
    #[default]
    None,
    Write(Bytes),
    BytesMut(BytesMut),
    /// So many bytes to read into, made when the first of them come: what waits in a deep queue
    /// holds no memory, and what is used at once stays in the processor's caches.
    Late(usize),
    Vec(Vec<u8>),
    Other(Box<dyn Lent>),
}

/// Memory to read into: whatever can be seen as bytes and given to the connection meanwhile.
///
/// ```
/// fn is_one(_: impl nbd_client_async::ReadBuffer) {}
/// is_one(vec![0; 512]);
/// is_one([0; 512]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read into",
    note = "take `Vec<u8>`, `Box<[u8]>` or `BytesMut`: the connection has it meanwhile, and it \
            comes back with the result",
    note = "`read` makes the memory itself"
)]
pub trait ReadBuffer: AsMut<[u8]> + Send + 'static {}

impl<B: AsMut<[u8]> + Send + 'static> ReadBuffer for B {}

/// Data to write. What owns its bytes is taken as it is; a slice is copied.
///
/// ```
/// fn is_one(_: impl nbd_client_async::WriteBuffer) {}
/// is_one(vec![0; 512]);
/// is_one(&[0; 512]);
/// is_one("text");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing to write",
    note = "take `Bytes`, `BytesMut`, `Vec<u8>`, `Box<[u8]>` or `String`, which are not copied, or \
            `&[u8]`, which is",
    note = "other owners of bytes become `Bytes` by `Bytes::from_owner`"
)]
pub trait WriteBuffer {
    /// The bytes, with their owner.
    fn into_bytes(self) -> Bytes;
}

/// Owners become `Bytes` by themselves, slices by a copy.
macro_rules! write_buffers {
    ($($owner:ty),*; $(($($constant:tt)*) $slice:ty),*) => {
        $(impl WriteBuffer for $owner {
            fn into_bytes(self) -> Bytes {
                self.into()
            }
        })*
        $(impl<$($constant)*> WriteBuffer for $slice {
            fn into_bytes(self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        })*
    };
}

write_buffers! {
    Bytes, BytesMut, Vec<u8>, Box<[u8]>, String, PooledBuffer;
    () &[u8], () &Vec<u8>, () &str, (const N: usize) &[u8; N], (const N: usize) [u8; N]
}

/// A caller's own type of buffer.
pub(crate) trait Lent: Send {
    fn bytes(&mut self) -> &mut [u8];
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<B: ReadBuffer> Lent for B {
    fn bytes(&mut self) -> &mut [u8] {
        self.as_mut()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// The value as another type, if it is of that type.
fn same<A: 'static, B: 'static>(value: &mut Option<A>) -> Option<B> {
    (value as &mut dyn Any).downcast_mut::<Option<B>>()?.take()
}

impl Buffer {
    pub(crate) fn lend<B: ReadBuffer>(buffer: B) -> Self {
        let mut buffer = Some(buffer);
        if let Some(bytes) = same(&mut buffer) {
            return Self::BytesMut(bytes);
        }
        if let Some(bytes) = same(&mut buffer) {
            return Self::Vec(bytes);
        }
        buffer.map_or(Self::None, |buffer| Self::Other(Box::new(buffer)))
    }

    /// The value that was lent as `B`; nothing of what was not made yet.
    pub(crate) fn give_back<B: 'static>(self) -> Option<B> {
        match self {
            Self::None | Self::Late(_) => None,
            Self::Write(bytes) => same(&mut Some(bytes)),
            Self::BytesMut(bytes) => same(&mut Some(bytes)),
            Self::Vec(bytes) => same(&mut Some(bytes)),
            Self::Other(lent) => lent.into_any().downcast().ok().map(|value| *value),
        }
    }

    /// Where data lands.
    pub(crate) fn writable(&mut self) -> &mut [u8] {
        if let Self::Late(length) = *self {
            *self = Self::BytesMut(BytesMut::zeroed(length));
        }
        match self {
            Self::None | Self::Late(_) | Self::Write(_) => &mut [],
            Self::BytesMut(bytes) => bytes,
            Self::Vec(bytes) => bytes,
            Self::Other(lent) => lent.bytes(),
        }
    }

    /// Where data comes from.
    pub(crate) fn readable(&self) -> &[u8] {
        match self {
            Self::Write(bytes) => bytes,
            Self::None | Self::BytesMut(_) | Self::Late(_) | Self::Vec(_) | Self::Other(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<B: ReadBuffer>(buffer: B) -> B {
        let mut lent = Buffer::lend(buffer);
        lent.writable().fill(7);
        assert_eq!(lent.writable().len(), 3);
        lent.give_back().unwrap()
    }

    #[test]
    fn every_buffer_comes_back_as_what_it_was() {
        assert_eq!(round(vec![0; 3]), [7; 3]);
        assert_eq!(round(BytesMut::zeroed(3)), [7; 3][..]);
        assert_eq!(round([0; 3]), [7; 3]);
        assert_eq!(*round(vec![0; 3].into_boxed_slice()), [7; 3]);
    }

    #[test]
    fn memory_is_made_when_it_is_written_to() {
        let mut late = Buffer::Late(3);
        assert!(late.readable().is_empty());
        late.writable().fill(7);
        assert_eq!(late.give_back::<BytesMut>().unwrap(), [7; 3][..]);
        assert_eq!(Buffer::Late(3).give_back::<BytesMut>(), None);
    }

    #[test]
    fn the_usual_types_are_not_boxed() {
        assert!(matches!(Buffer::lend(vec![0]), Buffer::Vec(_)));
        assert!(matches!(Buffer::lend(BytesMut::new()), Buffer::BytesMut(_)));
    }
}
