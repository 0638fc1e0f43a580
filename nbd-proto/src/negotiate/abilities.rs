//! What an export can do, one question a flag.

use super::facts::ExportInfo;
use crate::wire::flags::TransmissionFlags;

/// The questions are about [`flags`](Self::flags), after those were taken out that cannot
/// be used with what was negotiated.
impl ExportInfo {
    /// Writes are refused.
    #[must_use]
    #[doc(alias = "nbd_is_read_only")]
    pub const fn is_read_only(&self) -> bool {
        self.flags.contains(TransmissionFlags::READ_ONLY)
    }

    /// It has the characteristics of a rotating disk.
    #[must_use]
    #[doc(alias = "nbd_is_rotational")]
    pub const fn is_rotational(&self) -> bool {
        self.flags.contains(TransmissionFlags::ROTATIONAL)
    }

    /// Flush is understood.
    #[must_use]
    #[doc(alias = "nbd_can_flush")]
    pub const fn can_flush(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_FLUSH)
    }

    /// [`CommandFlags::FUA`](crate::CommandFlags::FUA) is understood.
    #[must_use]
    #[doc(alias = "nbd_can_fua")]
    pub const fn can_fua(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_FUA)
    }

    /// Trim is understood.
    #[must_use]
    #[doc(alias = "nbd_can_trim")]
    pub const fn can_trim(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_TRIM)
    }

    /// Write zeroes is understood.
    #[must_use]
    #[doc(alias = "nbd_can_zero")]
    pub const fn can_zero(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_WRITE_ZEROES)
    }

    /// [`CommandFlags::FAST_ZERO`](crate::CommandFlags::FAST_ZERO) is understood.
    #[must_use]
    #[doc(alias = "nbd_can_fast_zero")]
    pub const fn can_fast_zero(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_FAST_ZERO)
    }

    /// [`CommandFlags::DF`](crate::CommandFlags::DF) is understood.
    #[must_use]
    #[doc(alias = "nbd_can_df")]
    pub const fn can_df(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_DF)
    }

    /// Several connections to it see one coherent disk.
    #[must_use]
    #[doc(alias = "nbd_can_multi_conn")]
    pub const fn can_multi_conn(&self) -> bool {
        self.flags.contains(TransmissionFlags::CAN_MULTI_CONN)
    }

    /// Cache is understood.
    #[must_use]
    #[doc(alias = "nbd_can_cache")]
    pub const fn can_cache(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_CACHE)
    }

    /// One block status command can ask for some of the meta contexts only.
    #[must_use]
    #[doc(alias = "nbd_can_block_status_payload")]
    pub const fn can_block_status_payload(&self) -> bool {
        self.flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD)
    }
}
