//! The matrix: each adapter, behind each security, with each server, through all cases.

use nbd_conformance::{Adapter, Kind, Security, all, run_cell};

fn cell(adapter: Adapter, security: Security, kind: Kind) {
    let (count, failures) = run_cell(adapter, security, kind).expect("the server starts");
    let planned = all().filter(|case| case.fits(kind, security)).count();
    assert_eq!(count, planned);
    assert!(
        failures.is_empty(),
        "{adapter:?}, {security:?}, {kind:?}: {} of {count} cases failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Makes a test of each cell.
macro_rules! matrix {
    ($($adapter:ident $name:ident),* $(,)?) => {
        const ADAPTERS: usize = [$(stringify!($adapter)),*].len();
        $(mod $adapter {
            matrix!(@ plain Plain $name);
            matrix!(@ tls Tls $name);
            #[cfg(feature = "psk")]
            matrix!(@ psk Psk $name);
        })*
    };
    (@ $security:ident $variant:ident $adapter:ident) => {
        mod $security {
            use nbd_conformance::{Adapter, Kind, Security};

            #[test]
            fn nbdkit() {
                crate::cell(Adapter::$adapter, Security::$variant, Kind::Nbdkit);
            }

            #[test]
            fn qemu_nbd() {
                crate::cell(Adapter::$adapter, Security::$variant, Kind::Qemu);
            }

            #[test]
            fn nbd_serve() {
                crate::cell(Adapter::$adapter, Security::$variant, Kind::Ours);
            }
        }
    };
}

matrix! {
    blocking Blocking,
    mio Mio,
    tokio_current_thread TokioCurrentThread,
    tokio_multi_thread TokioMultiThread,
    async_std AsyncStd,
    smol Smol,
}
