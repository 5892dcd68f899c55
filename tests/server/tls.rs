//! HTTPS, mutual TLS, and certificates that change while the server runs.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::harness::{Server, classifyd, some_models, white_row};

/// An authority that signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
struct Signed {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        Self::until(4096)
    }

    /// Until the first day of a year.
    fn until(year: i32) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(year, 1, 1);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> Signed {
        self.sign_until(name, 4096)
    }

    fn sign_until(&self, name: &str, year: i32) -> Signed {
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

    /// What a client believes that knows this authority, with a certificate of its own or without.
    fn client(&self, own: Option<&Signed>) -> TlsConnector {
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

fn write(folder: &Path, signed: &Signed) {
    fs::write(folder.join("tls.crt"), &signed.certificate_pem).unwrap();
    fs::write(folder.join("tls.key"), signed.key.serialize_pem()).unwrap();
}

fn start(folder: &Path, options: &[&str]) -> Server {
    let models = some_models(&["linear"]);
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let files = [
        "--tls-certificate",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    Server::start(models.path(), &[&files[..], options].concat())
}

/// A certificate that signs itself, of an authority or of a server.
fn self_signed(is_ca: IsCa, name: &str) -> Signed {
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

/// `classifyd classify` with a server whose certificate is in the folder, and which is trusted.
fn classify(folder: &Path, server: &Server, trusted: &Path) -> Output {
    let picture = folder.join("picture.png");
    fs::write(&picture, white_row(2)).unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    classifyd()
        .args(["classify", "--url", &url])
        .arg(picture)
        .env("SSL_CERT_FILE", trusted)
        .output()
        .unwrap()
}

#[test]
fn a_certificate_that_a_client_refuses_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("tls.crt");
    let refused = |signed: &Signed, trusted: &Path, reason: &str| {
        write(folder.path(), signed);
        let output = classify(folder.path(), &start(folder.path(), &[]), trusted);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains("its certificate is refused: ") && errors.contains(reason),
            "{errors}"
        );
        assert!(!errors.contains("OtherError"), "{errors}");
    };
    // What `openssl req -x509` makes.
    let of_an_authority = self_signed(IsCa::Ca(BasicConstraints::Unconstrained), "localhost");
    refused(&of_an_authority, &trusted, "basicConstraints=critical,CA:FALSE");
    refused(
        &self_signed(IsCa::ExplicitNoCa, "elsewhere"),
        &trusted,
        "expected one for the name in --url",
    );
    let other = folder.path().join("other.crt");
    fs::write(
        &other,
        self_signed(IsCa::ExplicitNoCa, "localhost").certificate_pem,
    )
    .unwrap();
    let signed = Authority::new().sign("localhost");
    refused(
        &signed,
        &other,
        "name the file of its authority with SSL_CERT_FILE",
    );
    // What the advice makes.
    write(folder.path(), &self_signed(IsCa::ExplicitNoCa, "localhost"));
    let output = classify(folder.path(), &start(folder.path(), &[]), &trusted);
    assert!(output.status.success(), "{output:?}");
}

/// Sends a request over a new connection, and gives the answer and the server's certificate.
async fn ask(
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
async fn a_picture_is_classified_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(folder.path(), &authority.sign("localhost"));
    let server = start(folder.path(), &["--rate-limit", "100/s"]);
    let picture = white_row(2);
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        picture.len()
    );
    let request = [head.as_bytes(), &picture].concat();
    let (answer, _) = ask(server.address, &authority.client(None), &request)
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

    // A client that knows another authority does not believe it; one that speaks no TLS gets no answer.
    ask(server.address, &Authority::new().client(None), LIVEZ)
        .await
        .unwrap_err();
    assert!(server.get("/livez").send().await.is_err());
    ask(server.address, &authority.client(None), LIVEZ).await.unwrap();
    let (answer, _) = ask(server.address, &authority.client(None), b"NONSENSE\r\n\r\n")
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("\"code\":\"invalid_request\""),
        "{answer}"
    );
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(folder.path(), &authority.sign("localhost"));
    let server = start(folder.path(), &[]);
    for version in [&TLS12, &TLS13] {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = TlsConnector::from(Arc::new(config));
        let (answer, _) = ask(server.address, &client, MODELS).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{version:?}: {answer}");
    }
}

#[test]
fn the_command_line_asks_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(folder.path(), &authority.sign("localhost"));
    let server = start(folder.path(), &[]);
    let (ca, picture) = (folder.path().join("ca.crt"), folder.path().join("c.png"));
    fs::write(&ca, authority.0.pem()).unwrap();
    fs::write(&picture, white_row(2)).unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    let classify = |ca: &Path| {
        let mut command = classifyd();
        command.args(["classify", "--url", &url, "--top-k", "1"]);
        command.arg(&picture).env("SSL_CERT_FILE", ca).output().unwrap()
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
async fn with_mutual_tls_only_clients_that_the_authority_has_signed_are_heard() {
    let folder = tempfile::tempdir().unwrap();
    let (servers, clients) = (Authority::new(), Authority::new());
    write(folder.path(), &servers.sign("localhost"));
    let client_ca = folder.path().join("clients.crt");
    fs::write(&client_ca, clients.0.pem()).unwrap();
    let server = start(
        folder.path(),
        &[
            "--tls-client-ca",
            client_ca.to_str().unwrap(),
            "--admin-listen",
            "127.0.0.1:0",
        ],
    );
    let good = clients.sign("client");
    let stranger = Authority::new().sign("client");
    let (answer, _) = ask(server.address, &servers.client(Some(&good)), MODELS)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for own in [None, Some(&stranger)] {
        let error = ask(server.address, &servers.client(own), MODELS).await;
        assert!(error.is_err(), "{error:?}");
    }
    let failures = "classifyd_tls_handshake_failures_total{reason=\"certificate\"}";
    server.wait_for_metric(failures, 2.0).await;
    // Orchestrators have no certificate.
    let probe = format!("http://{}/readyz", server.admin_address.unwrap());
    assert_eq!(server.client.get(probe).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn certificates_are_read_again_and_bad_ones_change_nothing() {
    for (options, by_signal) in [(["--tls-reload", "0s"], true), (["--tls-reload", "20ms"], false)] {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (first, second) = (authority.sign("localhost"), authority.sign("localhost"));
        write(folder.path(), &first);
        let server = start(
            folder.path(),
            &[&options[..], &["--admin-listen", "127.0.0.1:0"]].concat(),
        );
        let successful = async |value: f64| {
            server
                .wait_for_metric("classifyd_reload_successful{what=\"certificates\"}", value)
                .await;
        };
        let client = authority.client(None);
        let shown = async || ask(server.address, &client, LIVEZ).await.unwrap().1;
        assert_eq!(shown().await, first.certificate);

        let old = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut old = client.connect(name, old).await.unwrap();

        fs::write(folder.path().join("tls.crt"), "no certificate").unwrap();
        if by_signal {
            server.signal("HUP");
        }
        server
            .wait_for_log(&["tls_certificate", "all stays as it was"])
            .await;
        assert_eq!(shown().await, first.certificate);
        // The key of another certificate: what is there in the middle of an exchange.
        fs::write(folder.path().join("tls.crt"), &second.certificate_pem).unwrap();
        if by_signal {
            server.signal("HUP");
        }
        server
            .wait_for_log(&["the private key of tls_certificate", "all stays as it was"])
            .await;
        assert_eq!(shown().await, first.certificate);
        successful(0.0).await;

        write(folder.path(), &second);
        if by_signal {
            server.signal("HUP");
        }
        let started = Instant::now();
        while shown().await != second.certificate {
            assert!(started.elapsed() < Duration::from_secs(20), "{:#?}", server.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        successful(1.0).await;
        // A connection that was there before goes on.
        old.write_all(MODELS).await.unwrap();
        let mut answer = String::new();
        old.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let private = second.key.serialize_pem();
        let log = server.log().join("\n");
        assert!(!log.contains(private.lines().nth(1).unwrap()), "{log}");
    }
}

#[tokio::test]
async fn a_metric_says_when_the_certificates_in_use_run_out() {
    let folder = tempfile::tempdir().unwrap();
    // The chain runs out with its authority, of clients' authorities the second is the first to go.
    let authority = Authority::until(2040);
    let write_chain = |year| {
        let mut signed = authority.sign_until("localhost", year);
        signed.certificate_pem += &authority.0.pem();
        write(folder.path(), &signed);
    };
    let client_ca = folder.path().join("clients.crt");
    let write_authorities = |years: [i32; 2]| {
        let authorities = years.map(|year| Authority::until(year).0.pem());
        fs::write(&client_ca, authorities.concat()).unwrap();
    };
    write_chain(2050);
    write_authorities([2048, 2045]);
    let options = ["--tls-reload", "0s", "--admin-listen", "127.0.0.1:0"];
    let options = [&options[..], &["--tls-client-ca", client_ca.to_str().unwrap()]].concat();
    let server = start(folder.path(), &options);
    let expect = async |certificate: &str, year| {
        let series =
            format!("classifyd_tls_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}}");
        let end = date_time_ymd(year, 1, 1).unix_timestamp();
        server.wait_for_metric(&series, end as f64).await;
    };
    expect("server", 2040).await;
    expect("client_ca", 2045).await;

    // What cannot be used is not in use.
    write_authorities([2030, 2031]);
    fs::write(folder.path().join("tls.crt"), "no certificate").unwrap();
    server.signal("HUP");
    server
        .wait_for_log(&["tls_certificate", "all stays as it was"])
        .await;
    expect("server", 2040).await;
    expect("client_ca", 2045).await;

    write_chain(2035);
    server.signal("HUP");
    expect("server", 2035).await;
    expect("client_ca", 2030).await;
}

#[tokio::test]
async fn clients_that_do_not_shake_hands_hold_up_nobody_and_are_sent_away() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(folder.path(), &authority.sign("localhost"));
    let mut server = start(
        folder.path(),
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
    // There is one slot left, and accepting goes on.
    ask(server.address, &authority.client(None), LIVEZ).await.unwrap();
    // With more of them than slots the next one waits until they are sent away.
    silent.push(TcpStream::connect(server.address).await.unwrap());
    ask(server.address, &authority.client(None), LIVEZ).await.unwrap();
    for mut stream in silent {
        let mut nothing = Vec::new();
        let _ = stream.read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    }
    // Nor do they hold up the end.
    let _silent = TcpStream::connect(server.address).await.unwrap();
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn files_that_cannot_be_used_keep_the_server_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (signed, other) = (authority.sign("localhost"), authority.sign("localhost"));
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write(folder.path(), &signed);
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
