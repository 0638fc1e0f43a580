//! Certificates made for one test.

use std::fs;
use std::path::Path;

use nbd_sim::peer::Scratch;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The names of a server on this machine.
const LOCAL: [&str; 2] = ["localhost", "127.0.0.1"];

/// A directory of certificates as servers and clients want it.
pub(crate) struct Pki(Scratch);

impl Pki {
    /// An authority, a server on this machine, and a client.
    pub(crate) fn new() -> Self {
        Self::with_server(&LOCAL)
    }

    /// An authority, a server of these names, and a client.
    pub(crate) fn with_server(names: &[&str]) -> Self {
        let pki = Self(Scratch::new().expect("a directory is made"));
        let key = KeyPair::generate().expect("a key is made");
        let mut authority = CertificateParams::new(Vec::new()).expect("no names are no fault");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "Test CA");
        let certificate = authority.self_signed(&key).expect("the authority signs itself");
        pki.write("ca-cert.pem", &certificate.pem());
        let issuer = Issuer::new(authority, key);
        pki.issue("server", names, ExtendedKeyUsagePurpose::ServerAuth, &issuer);
        pki.issue("client", &["client.example"], ExtendedKeyUsagePurpose::ClientAuth, &issuer);
        pki
    }

    fn issue(
        &self,
        who: &str,
        names: &[&str],
        purpose: ExtendedKeyUsagePurpose,
        issuer: &Issuer<'_, KeyPair>,
    ) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are names");
        params.distinguished_name.push(DnType::CommonName, who);
        params.extended_key_usages = vec![purpose];
        // QEMU wants the second one of any certificate.
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().expect("a key is made");
        let certificate = params.signed_by(&key, issuer).expect("the authority signs");
        self.write(&format!("{who}-cert.pem"), &certificate.pem());
        self.write(&format!("{who}-key.pem"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("it is written");
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    /// The directory as an argument.
    pub(crate) fn arg(&self) -> &str {
        self.dir().to_str().expect("test paths are UTF-8")
    }

    /// A directory that trusts the same authority and has no certificate.
    pub(crate) fn nobody(&self) -> Scratch {
        let scratch = Scratch::new().expect("a directory is made");
        fs::copy(self.0.join("ca-cert.pem"), scratch.join("ca-cert.pem")).expect("it is copied");
        scratch
    }
}
