//! Certificates and keys, made once for all tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nbd_sim::peer::Scratch;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The group ffdhe2048 of RFC 7919. Without it each start of qemu-nbd looks for a prime of
/// its own, which can take seconds.
const GROUP: &str = "\
-----BEGIN DH PARAMETERS-----
MIIBDAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAgICAQA=
-----END DH PARAMETERS-----
";

/// A directory with an authority, a server, a client, and a file of keys, by the names
/// that all servers and clients look for.
pub(crate) struct Credentials(Scratch);

impl Credentials {
    /// The user that the pre-shared key is for.
    pub(crate) const USER: &str = "alice";

    /// Those that clients and servers share.
    pub(crate) fn ours() -> &'static Self {
        static OURS: OnceLock<Credentials> = OnceLock::new();
        OURS.get_or_init(|| Self::new("000102030405060708090a0b0c0d0e0f"))
    }

    /// Those of somebody else, whom no server knows.
    pub(crate) fn strange() -> &'static Self {
        static STRANGE: OnceLock<Credentials> = OnceLock::new();
        STRANGE.get_or_init(|| Self::new("ffffffffffffffffffffffffffffffff"))
    }

    fn new(psk: &str) -> Self {
        let this = Self(Scratch::new().expect("a directory is made"));
        let key = KeyPair::generate().expect("a key is made");
        let mut authority = CertificateParams::new(Vec::new()).expect("no names are no fault");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "Test CA");
        let certificate = authority.self_signed(&key).expect("the authority signs itself");
        this.write("ca-cert.pem", &certificate.pem());
        let issuer = Issuer::new(authority, key);
        this.issue("server", ExtendedKeyUsagePurpose::ServerAuth, &issuer);
        this.issue("client", ExtendedKeyUsagePurpose::ClientAuth, &issuer);
        this.write("dh-params.pem", GROUP);
        this.write("keys.psk", &format!("{}:{psk}\n", Self::USER));
        this
    }

    fn issue(&self, who: &str, purpose: ExtendedKeyUsagePurpose, issuer: &Issuer<'_, KeyPair>) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
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

    /// The directory of all files.
    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    /// The file of keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.0.join("keys.psk")
    }
}
