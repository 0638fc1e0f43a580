//! Certificates and keys made for one test.

use std::fs;
use std::path::{Path, PathBuf};

pub use rcgen::ExtendedKeyUsagePurpose as Usage;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

use super::Scratch;

/// The names of a server on this machine.
pub const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// An authority, and a directory with its certificate. Servers and clients get theirs on demand.
#[derive(Debug)]
pub struct Pki {
    scratch: Scratch,
    issuer: Issuer<'static, KeyPair>,
}

/// What is special about a certificate.
#[derive(Debug, Default)]
pub struct Special {
    /// Whom it is for.
    pub names: Vec<String>,
    /// From the beginning of the one year to that of the other.
    pub years: Option<(i32, i32)>,
    /// What it may be used for; empty for anything.
    pub usage: Vec<Usage>,
    /// Its number.
    pub serial: Option<u64>,
}

impl Special {
    /// Only whom it is for.
    pub fn names(names: &[&str]) -> Self {
        Self { names: names.iter().map(|name| (*name).to_owned()).collect(), ..Self::default() }
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// An authority with a server for [`LOCAL`] and a client.
    pub fn new() -> Self {
        Self::with_server(&LOCAL)
    }

    /// An authority with a server of these names and a client.
    pub fn with_server(names: &[&str]) -> Self {
        let pki = Self::authority();
        let server = Special { usage: vec![Usage::ServerAuth], ..Special::names(names) };
        pki.issue("server", server);
        let client =
            Special { usage: vec![Usage::ClientAuth], ..Special::names(&["client.example"]) };
        pki.issue("client", client);
        pki
    }

    /// An authority alone.
    pub fn authority() -> Self {
        Self::called("Test CA")
    }

    /// An authority of that name.
    pub fn called(name: &str) -> Self {
        let scratch = Scratch::new().expect("a directory is made");
        let key = KeyPair::generate().expect("a key is made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are no fault");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("the authority signs itself");
        fs::write(scratch.join("ca-cert.pem"), certificate.pem()).expect("it is written");
        let issuer = Issuer::new(params, key);
        Self { scratch, issuer }
    }

    /// Issues `WHO-cert.pem` with `WHO-key.pem`.
    pub fn issue(&self, who: &str, special: Special) {
        let key = KeyPair::generate().expect("a key is made");
        let mut params = CertificateParams::new(special.names).expect("the names are sound");
        params.distinguished_name.push(DnType::CommonName, who);
        // QEMU wants the second one of any certificate.
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = special.usage;
        params.serial_number = special.serial.map(SerialNumber::from);
        if let Some((from, to)) = special.years {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("it is signed");
        fs::write(self.file(&format!("{who}-cert.pem")), certificate.pem()).expect("written");
        fs::write(self.file(&format!("{who}-key.pem")), key.serialize_pem()).expect("written");
    }

    /// Revokes a certificate.
    pub fn revoke(&self, serial: u64) {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(4090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("it is signed");
        fs::write(self.file("ca-crl.pem"), list.pem().expect("it is PEM")).expect("written");
    }

    /// Makes a certificate and key for a server that signs itself.
    pub fn sign_itself(&self) {
        let key = KeyPair::generate().expect("a key is made");
        let names = LOCAL.map(str::to_owned).to_vec();
        let params = CertificateParams::new(names).expect("the names are sound");
        let certificate = params.self_signed(&key).expect("it signs itself");
        fs::write(self.file("server-cert.pem"), certificate.pem()).expect("written");
        fs::write(self.file("server-key.pem"), key.serialize_pem()).expect("written");
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The directory as an argument.
    pub fn arg(&self) -> &str {
        self.dir().to_str().expect("the paths of tests are UTF-8")
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// A directory in which this authority is trusted, and that has nothing else in it.
    pub fn trust_only(&self) -> Scratch {
        let scratch = Scratch::new().expect("a directory is made");
        fs::copy(self.file("ca-cert.pem"), scratch.join("ca-cert.pem")).expect("it is copied");
        scratch
    }
}
