//! TLS: certificates, which can be reloaded, and the check of client certificates.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{IntGauge, IntGaugeVec};
use ring::digest::{Context, SHA256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use x509_parser::parse_x509_certificate;

use crate::config::Config;

/// The paths of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// `None` if TLS is not configured.
    pub fn of(config: &Config) -> Option<Self> {
        Some(Self {
            certificate: config.tls_certificate.clone()?,
            key: config.tls_key.clone()?,
            client_ca: config.tls_client_ca.clone(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct TlsError {
    /// The configuration key of the file.
    pub key: &'static str,
    pub message: String,
}

pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    /// Hash of the files as last read, valid or not, so that an error is logged only once.
    seen: Mutex<[u8; 32]>,
    expiry: IntGaugeVec,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.files).finish()
    }
}

impl Tls {
    /// Reads the files. `expiry` is the metric of the certificates' expiry.
    pub fn load(files: TlsFiles, expiry: IntGaugeVec) -> Result<Self, TlsError> {
        let contents = Contents::read(&files)?;
        let usable = contents.usable(&files)?;
        usable.tell(&expiry);
        Ok(Self {
            config: RwLock::new(usable.config),
            seen: Mutex::new(contents.hash()),
            files,
            expiry,
        })
    }

    /// The acceptor for a new connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&config))
    }

    /// Reads the files again. On an error the old certificates stay in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let contents = Contents::read(&self.files)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = contents.hash();
        let usable = contents.usable(&self.files)?;
        usable.tell(&self.expiry);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = usable.config;
        Ok(())
    }

    /// Reloads the files if they have changed since they were last read. Returns whether they had.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let contents = Contents::read(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = match contents {
            Ok(contents) => contents.hash(),
            Err(error) => {
                // A file that reappears counts as changed, even if it is the same.
                *seen = [0; 32];
                return Err(error);
            }
        };
        if *seen == hash {
            return Ok(false);
        }
        drop(seen);
        self.reload().map(|()| true)
    }

    /// Checks for changes periodically. `successful` is the metric of the last reload.
    pub async fn watch(self: Arc<Self>, every: Duration, successful: IntGauge) {
        // The last logged error, so that a missing file is logged only once.
        let mut told = None;
        loop {
            tokio::time::sleep(every).await;
            let tls = Arc::clone(&self);
            let result = tokio::task::spawn_blocking(move || tls.reload_if_changed()).await;
            match result {
                Ok(Ok(true)) => {
                    successful.set(1);
                    tracing::info!("certificates reloaded");
                }
                Ok(Err(error)) if told.as_ref() != Some(&error) => {
                    successful.set(0);
                    tracing::error!(%error, "the certificates cannot be reloaded: nothing changes");
                    told = Some(error);
                    continue;
                }
                Ok(Err(_)) => continue,
                Ok(Ok(false)) | Err(_) => {}
            }
            told = None;
        }
    }
}

/// The contents of the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |key, path: &Path| {
            fs::read(path).map_err(|error| TlsError {
                key,
                message: format!("{}: {error}", path.display()),
            })
        };
        Ok(Self {
            certificate: read(CERTIFICATE, &files.certificate)?,
            key: read(KEY, &files.key)?,
            client_ca: files
                .client_ca
                .as_deref()
                .map(|path| read(CLIENT_CA, path))
                .transpose()?,
        })
    }

    fn hash(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for file in [
            &self.certificate,
            &self.key,
            self.client_ca.as_ref().unwrap_or(&Vec::new()),
        ] {
            context.update(&(file.len() as u64).to_le_bytes());
            context.update(file);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }

    fn usable(&self, files: &TlsFiles) -> Result<Usable, TlsError> {
        let chain = certificates(CERTIFICATE, &files.certificate, &self.certificate)?;
        let expiry = earliest_end(CERTIFICATE, &files.certificate, &chain)?;
        let mut client_ca_expiry = None;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| unusable(KEY, &files.key, "a private key in PEM", &found(&error)))?;
        let mistake =
            |key, path, expected, error: &dyn fmt::Display| unusable(key, path, expected, &error.to_string());
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| mistake(CERTIFICATE, &files.certificate, "TLS 1.2 and 1.3", &error))?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(client_ca), Some(path)) => {
                let mut roots = RootCertStore::empty();
                let authorities = certificates(CLIENT_CA, path, client_ca)?;
                client_ca_expiry = Some(earliest_end(CLIENT_CA, path, &authorities)?);
                for authority in authorities {
                    roots
                        .add(authority)
                        .map_err(|error| mistake(CLIENT_CA, path, "certificates of authorities", &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| mistake(CLIENT_CA, path, "certificates of authorities", &error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| mistake(KEY, &files.key, "the private key of tls_certificate", &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Usable {
            config: Arc::new(config),
            expiry,
            client_ca_expiry,
        })
    }
}

struct Usable {
    config: Arc<ServerConfig>,
    /// Unix time at which the first certificate of the chain expires.
    expiry: i64,
    /// Unix time at which the first client CA certificate expires.
    client_ca_expiry: Option<i64>,
}

impl Usable {
    fn tell(&self, expiry: &IntGaugeVec) {
        expiry.with_label_values(&["server"]).set(self.expiry);
        if let Some(client_ca) = self.client_ca_expiry {
            expiry.with_label_values(&["client_ca"]).set(client_ca);
        }
    }
}

const CERTIFICATE: &str = "tls_certificate";
const KEY: &str = "tls_key";
const CLIENT_CA: &str = "tls_client_ca";

fn certificates(
    key: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let expected = "certificates in PEM";
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(key, path, expected, &found(&error)))?;
    if certificates.is_empty() {
        return Err(unusable(key, path, expected, "none"));
    }
    Ok(certificates)
}

/// Unix time at which the first of the certificates expires.
fn earliest_end(
    key: &'static str,
    path: &Path,
    certificates: &[CertificateDer<'_>],
) -> Result<i64, TlsError> {
    let mut earliest = i64::MAX;
    for (number, certificate) in (1..).zip(certificates) {
        let (_, parsed) = parse_x509_certificate(certificate).map_err(|error| {
            let expected = format!("an X.509 certificate as number {number}");
            unusable(key, path, &expected, &error.to_string())
        })?;
        earliest = earliest.min(parsed.validity().not_after.timestamp());
    }
    Ok(earliest)
}

/// Describes an error without repeating the file's content.
fn found(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "none".to_owned(),
        pem::Error::MissingSectionEnd { .. } => "a section without an end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section without a proper start".to_owned(),
        pem::Error::Base64Decode(_) => "a section that is not base64".to_owned(),
        _ => "something else".to_owned(),
    }
}

fn unusable(key: &'static str, path: &Path, expected: &str, found: &str) -> TlsError {
    TlsError {
        key,
        message: format!("{}: expected {expected}, found: {found}", path.display()),
    }
}
