//! Certificates that a client rejects, and files that the server cannot use.

use std::fs;
use std::path::Path;
use std::process::Output;

use rcgen::{BasicConstraints, IsCa};

use super::authority::{Authority, Signed, self_signed, write};
use super::start;
use crate::harness::{Server, classifyd, white_row};

/// Runs `classifyd classify` with a server and the certificates to trust.
fn classify(directory: &Path, server: &Server, trusted: &Path) -> Output {
    let image = directory.join("picture.png");
    fs::write(&image, white_row(2)).unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    classifyd()
        .args(["classify", "--url", &url])
        .arg(image)
        .env("SSL_CERT_FILE", trusted)
        .output()
        .unwrap()
}

#[test]
fn the_command_line_explains_why_it_refuses_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("tls.crt");
    let refused = |signed: &Signed, trusted: &Path, reason: &str| {
        write(directory.path(), signed);
        let output = classify(directory.path(), &start(directory.path(), &[]), trusted);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains("its certificate is rejected: ") && errors.contains(reason),
            "{errors}"
        );
        assert!(!errors.contains("OtherError"), "{errors}");
    };
    // A certificate like those of `openssl req -x509`.
    let of_an_authority = self_signed(IsCa::Ca(BasicConstraints::Unconstrained), "localhost");
    refused(&of_an_authority, &trusted, "basicConstraints=critical,CA:FALSE");
    refused(
        &self_signed(IsCa::ExplicitNoCa, "elsewhere"),
        &trusted,
        "expected one for the name in --url",
    );
    let other = directory.path().join("other.crt");
    fs::write(
        &other,
        self_signed(IsCa::ExplicitNoCa, "localhost").certificate_pem,
    )
    .unwrap();
    let signed = Authority::new().sign("localhost");
    refused(&signed, &other, "set SSL_CERT_FILE to the file of its authority");
    // A certificate made as the error message advises.
    write(directory.path(), &self_signed(IsCa::ExplicitNoCa, "localhost"));
    let output = classify(directory.path(), &start(directory.path(), &[]), &trusted);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_server_does_not_start_with_unusable_tls_files() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (signed, other) = (authority.sign("localhost"), authority.sign("localhost"));
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    write(directory.path(), &signed);
    fs::write(path("other.key"), other.key.serialize_pem()).unwrap();
    fs::write(path("empty.crt"), "").unwrap();
    let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(path("chain.crt"), signed.certificate_pem.clone() + no_x509).unwrap();
    let serve = |certificate: &str, key: &str, more: &[&str]| -> Output {
        let options = ["serve", "--tls-certificate", certificate, "--tls-key", key];
        classifyd().args(options).args(more).output().unwrap()
    };
    let (certificate, key) = (path("tls.crt"), path("tls.key"));
    for (output, parts) in [
        (
            serve("/nowhere.crt", &key, &[]),
            [
                "flag --tls-certificate: tls_certificate: /nowhere.crt",
                "No such file",
            ],
        ),
        (
            serve(&path("empty.crt"), &key, &[]),
            ["empty.crt: expected certificates in PEM", "found: none"],
        ),
        (
            serve(&path("chain.crt"), &key, &[]),
            ["tls_certificate", "expected an X.509 certificate as number 2"],
        ),
        (
            serve(&certificate, &certificate, &[]),
            ["tls_key", "expected a private key in PEM, found: none"],
        ),
        (
            serve(&certificate, &path("other.key"), &[]),
            ["tls_key", "expected the private key of tls_certificate"],
        ),
        (
            serve(&certificate, &key, &["--tls-client-ca", &key]),
            ["tls_client_ca", "expected certificates in PEM, found: none"],
        ),
    ] {
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        for part in parts {
            assert!(told.contains(part), "expected {part:?} in: {told}");
        }
    }
}
