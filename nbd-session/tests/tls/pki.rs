//! Certificates and keys made for one test.

use nbd_sim::peer::Scratch;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use std::fs;
use std::path::{Path, PathBuf};

/// The names of a server on this machine.
pub(crate) const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// An authority, and a directory with its certificate. Servers and clients get theirs on demand.
pub(crate) struct Pki {
    scratch: Scratch,
    issuer: Issuer<'static, KeyPair>,
}

/// What is special about a certificate.
#[derive(Default)]
pub(crate) struct Special {
    pub(crate) names: Vec<String>,
    pub(crate) years: Option<(i32, i32)>,
    pub(crate) usage: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) serial: Option<u64>,
}

impl Special {
    pub(crate) fn names(names: &[&str]) -> Self {
        Self { names: names.iter().map(|name| (*name).to_owned()).collect(), ..Self::default() }
    }
}

impl Pki {
    /// An authority with a server for [`LOCAL`] and a client.
    pub(crate) fn new() -> Self {
        let pki = Self::authority();
        pki.issue("server", Special::names(&LOCAL));
        pki.issue("client", Special::names(&["client"]));
        pki
    }

    /// An authority alone.
    pub(crate) fn authority() -> Self {
        Self::called("Test CA")
    }

    /// An authority of that name.
    pub(crate) fn called(name: &str) -> Self {
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
    pub(crate) fn issue(&self, who: &str, special: Special) {
        let key = KeyPair::generate().expect("a key is made");
        let mut params = CertificateParams::new(special.names).expect("the names are sound");
        params.distinguished_name.push(DnType::CommonName, who);
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
    pub(crate) fn revoke(&self, serial: u64) {
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
    pub(crate) fn sign_itself(&self) {
        let key = KeyPair::generate().expect("a key is made");
        let names = LOCAL.map(str::to_owned).to_vec();
        let params = CertificateParams::new(names).expect("the names are sound");
        let certificate = params.self_signed(&key).expect("it signs itself");
        fs::write(self.file("server-cert.pem"), certificate.pem()).expect("written");
        fs::write(self.file("server-key.pem"), key.serialize_pem()).expect("written");
    }

    pub(crate) fn dir(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// A directory in which this authority is trusted, and that has nothing else in it.
    pub(crate) fn trust_only(&self) -> Scratch {
        let scratch = Scratch::new().expect("a directory is made");
        fs::copy(self.file("ca-cert.pem"), scratch.join("ca-cert.pem")).expect("it is copied");
        scratch
    }
}
