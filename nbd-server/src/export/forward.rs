//! An export that is another one, seen otherwise.

/// The methods of an [`Export`](crate::Export) that has all from another: which one, and where in
/// it an offset is. With a size of its own it may be a part of the other.
///
/// A method that is missing here would be the default, silently: all have to be listed.
macro_rules! forward {
    ($self:ident => $inner:expr, $offset:ident => $at:expr) => {
        fn size(&$self) -> u64 {
            $inner.size()
        }

        forward!($self => $inner, $offset => $at, but size);
    };
    ($self:ident => $inner:expr, $offset:ident => $at:expr, but size) => {
        fn read_exact_at(&$self, buf: &mut [u8], $offset: u64) -> std::io::Result<()> {
            $inner.read_exact_at(buf, $at)
        }

        fn try_read_exact_at(
            &$self,
            buf: &mut [u8],
            $offset: u64,
        ) -> std::io::Result<$crate::Attempt> {
            $inner.try_read_exact_at(buf, $at)
        }

        fn abilities(&$self) -> $crate::Abilities {
            $inner.abilities()
        }

        fn block_sizes(&$self) -> $crate::BlockSizes {
            $inner.block_sizes()
        }

        fn description(&$self) -> Option<String> {
            $inner.description()
        }

        fn write_all_at(&$self, buf: &[u8], $offset: u64) -> std::io::Result<()> {
            $inner.write_all_at(buf, $at)
        }

        fn flush(&$self) -> std::io::Result<()> {
            $inner.flush()
        }

        fn trim(&$self, $offset: u64, len: u64) -> std::io::Result<()> {
            $inner.trim($at, len)
        }

        fn write_zeroes(
            &$self,
            $offset: u64,
            len: u64,
            zeroing: $crate::Zeroing,
        ) -> std::io::Result<()> {
            $inner.write_zeroes($at, len, zeroing)
        }

        fn cache(&$self, $offset: u64, len: u64) -> std::io::Result<()> {
            $inner.cache($at, len)
        }

        fn extents(
            &$self,
            $offset: u64,
            len: u64,
            visit: &mut dyn FnMut($crate::AllocationExtent) -> std::ops::ControlFlow<()>,
        ) -> std::io::Result<()> {
            $inner.extents($at, len, visit)
        }

        fn contexts(&$self) -> Vec<String> {
            $inner.contexts()
        }

        fn context_extents(
            &$self,
            context: &str,
            $offset: u64,
            len: u64,
            visit: &mut dyn FnMut($crate::Extent) -> std::ops::ControlFlow<()>,
        ) -> std::io::Result<()> {
            $inner.context_extents(context, $at, len, visit)
        }
    };
}
