//! What the kernel is told about its devices, and how it refuses.
//!
//! The messages are those of `include/uapi/linux/nbd-netlink.h`.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use neli::consts::nl::NlmF;
use neli::consts::socket::NlFamily;
use neli::err::RouterError;
use neli::genl::{AttrType, AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, Nlattr, NlattrBuilder};
use neli::nl::NlPayload;
use neli::router::synchronous::NlRouter;
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;
use neli::{Size, ToBytes, neli_enum};

use nbd_client_mio::proto::TransmissionFlags;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use super::device::Device;

/// What the family is called among the kernel's.
const FAMILY: &str = "nbd";

const VERSION: u8 = 1;

/// How long a request may take in the kernel's opinion, in seconds, where it has several sockets:
/// one that took longer than 30 s would then have the kernel give up a socket, unless it is told
/// otherwise, and nothing lets it wait for ever. How long the server is waited for is our affair.
const LONGEST: u64 = 7 * 24 * 60 * 60;

#[neli_enum(serialized_type = "u8")]
enum Operation {
    Unspecified = 0,
    Connect = 1,
    Disconnect = 2,
    Reconfigure = 3,
}

impl neli::consts::genl::Cmd for Operation {}

/// Those of a message, and those inside of them, whose numbers overlap.
#[neli_enum(serialized_type = "u16")]
enum Attribute {
    Unspecified = 0,
    /// Also a socket in the list of sockets, and its descriptor.
    Index = 1,
    Size = 2,
    BlockSize = 3,
    Timeout = 4,
    ServerFlags = 5,
    Sockets = 7,
}

impl neli::consts::genl::NlAttrType for Attribute {}

type Attributes = GenlBuffer<Attribute, Buffer>;
type Message = Genlmsghdr<Operation, Attribute>;

/// What a device is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// In bytes, whole blocks.
    pub(super) size: u64,
    pub(super) block: u32,
    pub(super) flags: TransmissionFlags,
}

/// Why the kernel does not do what it was asked for.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There are no network block devices in this kernel.
    NoModule,
    /// The caller is not allowed to.
    NotAllowed,
    /// Somebody else has the device.
    InUse,
    /// There is no such device, or nothing is attached to it.
    NoDevice,
    /// The kernel has no device of that number.
    NoNumber,
    /// Another answer.
    Other(io::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModule => f.write_str(
                "this kernel has no network block devices; load their module: modprobe nbd",
            ),
            Self::NotAllowed => {
                f.write_str("the kernel lets only root change its devices (it takes CAP_SYS_ADMIN)")
            }
            Self::InUse => f.write_str("the device is in use"),
            Self::NoNumber => f.write_str("the kernel has no device of that number"),
            Self::NoDevice => f.write_str("nothing is attached there"),
            Self::Other(error) => write!(f, "the kernel refuses: {error}"),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS) => Self::NotAllowed,
            Some(Errno::BUSY) => Self::InUse,
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Self::NoDevice,
            _ => Self::Other(error),
        }
    }
}

/// Makes a device, of the sockets at whose other end requests are answered: this one, or any
/// that is free.
pub(super) fn connect(
    device: Option<Device>,
    shape: Shape,
    sockets: &[BorrowedFd<'_>],
) -> Result<Device, Refusal> {
    let mut attributes = Vec::new();
    if let Some(device) = device {
        attributes.push(attribute(Attribute::Index, device.index())?);
    }
    attributes.push(attribute(Attribute::Size, shape.size)?);
    attributes.push(attribute(Attribute::BlockSize, u64::from(shape.block))?);
    attributes.push(attribute(Attribute::ServerFlags, u64::from(shape.flags.bits()))?);
    if sockets.len() > 1 {
        attributes.push(attribute(Attribute::Timeout, LONGEST)?);
    }
    let mut list = nest(Attribute::Sockets)?;
    for socket in sockets {
        let fd = socket.as_raw_fd() as u32;
        let item = nest(Attribute::Index)?.nest(&attribute(Attribute::Index, fd)?);
        list = list.nest(&item.map_err(other)?).map_err(other)?;
    }
    attributes.push(list);
    let answer = ask(Operation::Connect, attributes).map_err(|refusal| match refusal {
        // Of what else is said nothing is invalid.
        Refusal::Other(error)
            if device.is_some() && error.kind() == io::ErrorKind::InvalidInput =>
        {
            Refusal::NoNumber
        }
        refusal => refusal,
    })?;
    let told = answer.as_ref().and_then(|message| {
        message.attrs().get_attr_handle().get_attr_payload_as::<u32>(Attribute::Index).ok()
    });
    told.map(Device::new).or(device).ok_or_else(|| {
        Refusal::Other(io::Error::other("it does not tell which device it has taken"))
    })
}

/// Ends a device. What is under way fails.
pub(super) fn disconnect(device: Device) -> Result<(), Refusal> {
    let asked = ask(Operation::Disconnect, vec![attribute(Attribute::Index, device.index())?]);
    match asked {
        Err(Refusal::Other(error)) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(Refusal::NoDevice)
        }
        asked => asked.map(drop),
    }
}

/// Changes the size of a device, in bytes.
pub(super) fn resize(device: Device, shape: Shape) -> Result<(), Refusal> {
    let attributes = vec![
        attribute(Attribute::Index, device.index())?,
        attribute(Attribute::Size, shape.size)?,
        attribute(Attribute::BlockSize, u64::from(shape.block))?,
    ];
    ask(Operation::Reconfigure, attributes).map(drop)
}

/// Whether the kernel has network block devices at all, and takes orders from this process.
pub(super) fn check() -> Result<(), Refusal> {
    family(&router()?)?;
    // Where that cannot be told it will say so itself.
    match capabilities(None) {
        Ok(sets) if !sets.effective.contains(CapabilitySet::SYS_ADMIN) => Err(Refusal::NotAllowed),
        _ => Ok(()),
    }
}

fn router() -> Result<NlRouter, Refusal> {
    let connected = NlRouter::connect(NlFamily::Generic, None, Groups::empty());
    connected.map(|(router, _)| router).map_err(refusal)
}

fn family(router: &NlRouter) -> Result<u16, Refusal> {
    router.resolve_genl_family(FAMILY).map_err(|error| match refusal(error) {
        Refusal::NoDevice => Refusal::NoModule,
        other => other,
    })
}

/// Sends a message and waits until it is acknowledged. Returns the answer, where there is one.
fn ask(
    operation: Operation,
    attributes: Vec<Nlattr<Attribute, Buffer>>,
) -> Result<Option<Message>, Refusal> {
    let router = router()?;
    let family = family(&router)?;
    let attributes: Attributes = attributes.into_iter().collect();
    let message = GenlmsghdrBuilder::default()
        .cmd(operation)
        .version(VERSION)
        .attrs(attributes)
        .build()
        .map_err(other)?;
    let answers = router
        .send::<_, _, u16, Message>(family, NlmF::ACK, NlPayload::Payload(message))
        .map_err(refusal)?;
    let mut answer = None;
    for received in answers {
        if let NlPayload::Payload(message) = received.map_err(refusal)?.nl_payload() {
            answer = Some(message.clone());
        }
    }
    Ok(answer)
}

fn attribute(
    kind: Attribute,
    value: impl Size + ToBytes,
) -> Result<Nlattr<Attribute, Buffer>, Refusal> {
    let attribute = NlattrBuilder::default().nla_type(plain(kind)?).nla_payload(value);
    attribute.build().map_err(other)
}

/// One that has others inside.
fn nest(kind: Attribute) -> Result<Nlattr<Attribute, Buffer>, Refusal> {
    let nested = AttrTypeBuilder::default().nla_nested(true).nla_type(kind);
    let empty = NlattrBuilder::default().nla_type(nested.build().map_err(other)?);
    empty.nla_payload(Vec::<u8>::new()).build().map_err(other)
}

fn plain(kind: Attribute) -> Result<AttrType<Attribute>, Refusal> {
    AttrTypeBuilder::default().nla_type(kind).build().map_err(other)
}

/// What should not fail: a message that cannot be put together.
fn other(error: impl fmt::Display) -> Refusal {
    Refusal::Other(io::Error::other(error.to_string()))
}

fn refusal<T: fmt::Debug, P: fmt::Debug>(error: RouterError<T, P>) -> Refusal
where
    RouterError<T, P>: fmt::Display,
{
    match error {
        RouterError::Nlmsgerr(error) => io::Error::from_raw_os_error(-*error.error()).into(),
        RouterError::Io(kind) => io::Error::from(kind).into(),
        error => other(error),
    }
}
