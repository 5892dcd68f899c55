//! Certificate authorities and certificates for the tests.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A certificate authority.
pub(super) struct Authority(pub(super) CertifiedIssuer<'static, KeyPair>);

/// A certificate with its private key.
pub(super) struct Signed {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) certificate_pem: String,
    pub(super) key: KeyPair,
}

impl Authority {
    pub(super) fn new() -> Self {
        Self::until(4096)
    }

    /// An authority whose certificate expires on the first day of a year.
    pub(super) fn until(year: i32) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(year, 1, 1);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn sign(&self, name: &str) -> Signed {
        self.sign_until(name, 4096)
    }

    pub(super) fn sign_until(&self, name: &str, year: i32) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Signed {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key,
        }
    }

    /// A client that trusts this authority, with or without its own certificate.
    pub(super) fn client(&self, own: Option<&Signed>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
                builder
                    .with_client_auth_cert(vec![own.certificate.clone()], key)
                    .unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        TlsConnector::from(Arc::new(config))
    }
}

pub(super) fn write(directory: &Path, signed: &Signed) {
    fs::write(directory.join("tls.crt"), &signed.certificate_pem).unwrap();
    fs::write(directory.join("tls.key"), signed.key.serialize_pem()).unwrap();
}

/// A self-signed certificate, for an authority or a server.
pub(super) fn self_signed(is_ca: IsCa, name: &str) -> Signed {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = is_ca;
    let certificate = params.self_signed(&key).unwrap();
    Signed {
        certificate: certificate.der().clone(),
        certificate_pem: certificate.pem(),
        key,
    }
}
