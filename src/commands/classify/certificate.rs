//! Explains why the certificate of a server was rejected, and what to do about it.

use std::error::Error;

use tokio_rustls::rustls::{self, CertificateError};

/// The explanation, if the certificate is the reason of this error.
pub(super) fn fault(error: &ureq::Error) -> Option<String> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => error.get_ref().and_then(tls_error)?,
        _ => return None,
    };
    match error {
        rustls::Error::InvalidCertificate(reason) => Some(explain(reason)),
        _ => None,
    }
}

/// rustls wraps its errors in those of `std::io`.
fn tls_error<'a>(error: &'a (dyn Error + Send + Sync + 'static)) -> Option<&'a rustls::Error> {
    let mut error: &'a (dyn Error + 'static) = error;
    loop {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        error = error.source()?;
    }
}

fn explain(reason: &CertificateError) -> String {
    match reason {
        // BadSignature: another authority has the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it is not signed by an authority that this machine trusts: set SSL_CERT_FILE to the file of its authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("it has expired, or the clock of this machine is wrong ({reason})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("it is not valid yet, or the clock of this machine is wrong ({reason})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("expected one for the name in --url, found one for other names ({reason})")
        }
        // rustls has no variant for this error.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "expected the certificate of a server, found that of an authority (CA:TRUE), the default of \
             `openssl req -x509`: create it again with -addext basicConstraints=critical,CA:FALSE -addext \
             subjectAltName=DNS:localhost (the name in --url)"
                .to_owned()
        }
        other => other.to_string(),
    }
}
