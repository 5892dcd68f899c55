//! What is wrong with a server's certificate, in words, and what mends it.

use std::error::Error;

use tokio_rustls::rustls::{self, CertificateError};

/// What is wrong with the certificate of a server, if that is why a request got no answer.
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

/// The error of TLS in one of input and output.
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
        // The latter where another authority has the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no authority that this machine trusts has signed it: name the file of its authority with SSL_CERT_FILE".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("it has expired, or the clock of this machine is wrong ({reason})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("it is not valid yet, or the clock of this machine is wrong ({reason})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("expected one for the name in --url, found one for others ({reason})")
        }
        // The library has no name for this one.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "expected the certificate of a server, found that of an authority (CA:TRUE), which `openssl req -x509` makes unless \
             it is told otherwise: make it anew with -addext basicConstraints=critical,CA:FALSE -addext \
             subjectAltName=DNS:localhost (the name in --url)"
                .to_owned()
        }
        other => other.to_string(),
    }
}
