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
    compio Compio,
    compio_polling CompioPolling,
}

/// Whoever adds a case, or takes one away, or makes it choosy, sees here where it runs.
#[test]
fn no_cell_is_short_of_cases() {
    for (kind, plain, encrypted) in
        [(Kind::Nbdkit, 158, 126), (Kind::Qemu, 128, 117), (Kind::Ours, 132, 122)]
    {
        for (security, planned) in
            [(Security::Plain, plain), (Security::Tls, encrypted), (Security::Psk, encrypted)]
        {
            let count = all().filter(|case| case.fits(kind, security)).count();
            assert_eq!(count, planned, "{kind:?}, {security:?}");
            assert!(count >= 50);
        }
    }
}

#[test]
fn what_does_not_run_everywhere_says_why() {
    let everywhere = |case: &nbd_conformance::Case| {
        [Kind::Nbdkit, Kind::Qemu, Kind::Ours].into_iter().all(|kind| {
            [Security::Plain, Security::Tls, Security::Psk]
                .into_iter()
                .all(|security| case.fits(kind, security))
        })
    };
    for case in all().filter(|case| !everywhere(case)) {
        assert!(case.reasons().all(|why| !why.is_empty()), "{}", case.name());
        assert!(case.reasons().count() > 0, "{}", case.name());
    }
    assert!(all().filter(|case| everywhere(case)).count() >= 50);
}
