//! Certificates that change or expire while the server runs.

use std::fs;
use std::time::{Duration, Instant};

use rcgen::date_time_ymd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::authority::{Authority, write};
use super::{LIVEZ, MODELS, send_request, start};

#[tokio::test]
async fn certificates_are_reloaded_and_invalid_ones_are_ignored() {
    for (options, by_signal) in [(["--tls-reload", "0s"], true), (["--tls-reload", "20ms"], false)] {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (first, second) = (authority.sign("localhost"), authority.sign("localhost"));
        write(directory.path(), &first);
        let server = start(
            directory.path(),
            &[&options[..], &["--admin-listen", "127.0.0.1:0"]].concat(),
        );
        let successful = async |value: f64| {
            server
                .wait_for_metric("classifyd_reload_successful{what=\"certificates\"}", value)
                .await;
        };
        let client = authority.client(None);
        let shown = async || send_request(server.address, &client, LIVEZ).await.unwrap().1;
        assert_eq!(shown().await, first.certificate);

        let old = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut old = client.connect(name, old).await.unwrap();

        fs::write(directory.path().join("tls.crt"), "no certificate").unwrap();
        if by_signal {
            server.signal("HUP");
        }
        server.wait_for_log(&["tls_certificate", "nothing changes"]).await;
        assert_eq!(shown().await, first.certificate);
        // The key of another certificate, as in the middle of a replacement.
        fs::write(directory.path().join("tls.crt"), &second.certificate_pem).unwrap();
        if by_signal {
            server.signal("HUP");
        }
        server
            .wait_for_log(&["the private key of tls_certificate", "nothing changes"])
            .await;
        assert_eq!(shown().await, first.certificate);
        successful(0.0).await;

        write(directory.path(), &second);
        if by_signal {
            server.signal("HUP");
        }
        let started = Instant::now();
        while shown().await != second.certificate {
            assert!(started.elapsed() < Duration::from_secs(20), "{:#?}", server.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        successful(1.0).await;
        // An existing connection continues.
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
async fn a_metric_shows_when_the_certificates_in_use_expire() {
    let directory = tempfile::tempdir().unwrap();
    // The chain expires with its authority. Of the clients' authorities, the second expires first.
    let authority = Authority::until(2040);
    let write_chain = |year| {
        let mut signed = authority.sign_until("localhost", year);
        signed.certificate_pem += &authority.0.pem();
        write(directory.path(), &signed);
    };
    let client_ca = directory.path().join("clients.crt");
    let write_authorities = |years: [i32; 2]| {
        let authorities = years.map(|year| Authority::until(year).0.pem());
        fs::write(&client_ca, authorities.concat()).unwrap();
    };
    write_chain(2050);
    write_authorities([2048, 2045]);
    let options = ["--tls-reload", "0s", "--admin-listen", "127.0.0.1:0"];
    let options = [&options[..], &["--tls-client-ca", client_ca.to_str().unwrap()]].concat();
    let server = start(directory.path(), &options);
    let expect = async |certificate: &str, year| {
        let series =
            format!("classifyd_tls_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}}");
        let end = date_time_ymd(year, 1, 1).unix_timestamp();
        server.wait_for_metric(&series, end as f64).await;
    };
    expect("server", 2040).await;
    expect("client_ca", 2045).await;

    // Invalid files are not in use.
    write_authorities([2030, 2031]);
    fs::write(directory.path().join("tls.crt"), "no certificate").unwrap();
    server.signal("HUP");
    server.wait_for_log(&["tls_certificate", "nothing changes"]).await;
    expect("server", 2040).await;
    expect("client_ca", 2045).await;

    write_chain(2035);
    server.signal("HUP");
    expect("server", 2035).await;
    expect("client_ca", 2030).await;
}
