//! HTTPS and mutual TLS.

mod authority;
mod refused;
mod reload;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::harness::{Server, classifyd, some_models, white_row};
use authority::{Authority, write};

fn start(directory: &Path, options: &[&str]) -> Server {
    let models = some_models(&["linear"]);
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    let files = [
        "--tls-certificate",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    Server::start(models.path(), &[&files[..], options].concat())
}

/// Sends a request over a new connection. Returns the response and the server's certificate.
async fn send_request(
    address: SocketAddr,
    client: &TlsConnector,
    request: &[u8],
) -> std::io::Result<(String, CertificateDer<'static>)> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = client
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await?;
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned();
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok((String::from_utf8(answer).unwrap(), certificate))
}

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const MODELS: &[u8] = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn an_image_is_classified_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(directory.path(), &authority.sign("localhost"));
    let server = start(directory.path(), &["--rate-limit", "100/s"]);
    let image = white_row(2);
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        image.len()
    );
    let request = [head.as_bytes(), &image].concat();
    let (answer, _) = send_request(server.address, &authority.client(None), &request)
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"label\":\"c\""),
        "{answer}"
    );
    assert!(
        answer.contains("strict-transport-security: max-age=31536000"),
        "{answer}"
    );

    // A client that trusts another authority refuses the certificate. A client without TLS gets no
    // response.
    send_request(server.address, &Authority::new().client(None), LIVEZ)
        .await
        .unwrap_err();
    assert!(server.get("/livez").send().await.is_err());
    send_request(server.address, &authority.client(None), LIVEZ)
        .await
        .unwrap();
    let (answer, _) = send_request(server.address, &authority.client(None), b"NONSENSE\r\n\r\n")
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("\"code\":\"invalid_request\""),
        "{answer}"
    );
}

#[tokio::test]
async fn tls_1_2_and_1_3_both_work() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(directory.path(), &authority.sign("localhost"));
    let server = start(directory.path(), &[]);
    for version in [&TLS12, &TLS13] {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = TlsConnector::from(Arc::new(config));
        let (answer, _) = send_request(server.address, &client, MODELS).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{version:?}: {answer}");
    }
}

#[test]
fn classify_works_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(directory.path(), &authority.sign("localhost"));
    let server = start(directory.path(), &[]);
    let (ca, image) = (directory.path().join("ca.crt"), directory.path().join("c.png"));
    fs::write(&ca, authority.0.pem()).unwrap();
    fs::write(&image, white_row(2)).unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    let classify = |ca: &Path| {
        let mut command = classifyd();
        command.args(["classify", "--url", &url, "--top-k", "1"]);
        command.arg(&image).env("SSL_CERT_FILE", ca).output().unwrap()
    };
    let output = classify(&ca);
    assert!(
        String::from_utf8_lossy(&output.stdout).ends_with("\tc 0.9647\n"),
        "{output:?}"
    );
    fs::write(&ca, Authority::new().0.pem()).unwrap();
    let output = classify(&ca);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[tokio::test]
async fn mutual_tls_accepts_only_clients_with_a_certificate_of_the_authority() {
    let directory = tempfile::tempdir().unwrap();
    let (servers, clients) = (Authority::new(), Authority::new());
    write(directory.path(), &servers.sign("localhost"));
    let client_ca = directory.path().join("clients.crt");
    fs::write(&client_ca, clients.0.pem()).unwrap();
    let server = start(
        directory.path(),
        &[
            "--tls-client-ca",
            client_ca.to_str().unwrap(),
            "--admin-listen",
            "127.0.0.1:0",
        ],
    );
    let good = clients.sign("client");
    let stranger = Authority::new().sign("client");
    let (answer, _) = send_request(server.address, &servers.client(Some(&good)), MODELS)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for own in [None, Some(&stranger)] {
        let error = send_request(server.address, &servers.client(own), MODELS).await;
        assert!(error.is_err(), "{error:?}");
    }
    let failures = "classifyd_tls_handshake_failures_total{reason=\"certificate\"}";
    server.wait_for_metric(failures, 2.0).await;
    // Orchestrators have no certificate.
    let probe = format!("http://{}/readyz", server.admin_address.unwrap());
    assert_eq!(server.client.get(probe).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn clients_that_do_not_complete_the_tls_handshake_are_disconnected_and_delay_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(directory.path(), &authority.sign("localhost"));
    let mut server = start(
        directory.path(),
        &[
            "--header-timeout",
            "500ms",
            "--max-connections",
            "8",
            "--drain-delay",
            "0s",
        ],
    );
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // One slot is free, so the server still accepts connections.
    send_request(server.address, &authority.client(None), LIVEZ)
        .await
        .unwrap();
    // Now all slots are taken, and the next connection waits until the silent ones are closed.
    silent.push(TcpStream::connect(server.address).await.unwrap());
    send_request(server.address, &authority.client(None), LIVEZ)
        .await
        .unwrap();
    for mut stream in silent {
        let mut nothing = Vec::new();
        let _ = stream.read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    }
    // They do not delay shutdown either.
    let _silent = TcpStream::connect(server.address).await.unwrap();
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}
