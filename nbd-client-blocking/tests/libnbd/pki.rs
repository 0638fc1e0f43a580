//! An authority, a server and a client, for one test.

use std::fs;
use std::path::Path;

use nbd_sim::peer::Scratch;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A directory of certificates as servers and clients want it, for `localhost`.
pub(crate) struct Pki(Scratch);

impl Pki {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new().expect("a directory is made");
        let key = KeyPair::generate().expect("a key is made");
        let mut authority = CertificateParams::new(Vec::new()).expect("no names are no fault");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = authority.self_signed(&key).expect("the authority signs itself");
        fs::write(scratch.join("ca-cert.pem"), certificate.pem()).expect("it is written");
        let issuer = Issuer::new(authority, key);
        for who in ["server", "client"] {
            let key = KeyPair::generate().expect("a key is made");
            let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
            let params = CertificateParams::new(names).expect("the names are names");
            let certificate = params.signed_by(&key, &issuer).expect("the authority signs");
            let file = |what| scratch.join(&format!("{who}-{what}.pem"));
            fs::write(file("cert"), certificate.pem()).expect("it is written");
            fs::write(file("key"), key.serialize_pem()).expect("it is written");
        }
        Self(scratch)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }
}
