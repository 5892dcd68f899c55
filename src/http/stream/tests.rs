use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_too_slowly_loses_its_connection_and_one_that_reads_on_does_not() {
    const LONG: Duration = Duration::from_hours(1);
    for (bytes_a_second, is_served) in [(0, false), (100, false), (4096, true)] {
        let (server, mut client) = tokio::io::duplex(64);
        let limits = StreamLimits {
            keep_alive: LONG,
            header: LONG,
            write: Duration::from_secs(10),
        };
        let mut stream = Stream::new(server, limits, Arc::default());
        let reader = tokio::spawn(async move {
            let mut part = vec![0; bytes_a_second];
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if client.read_exact(&mut part).await.is_err() {
                    break;
                }
            }
        });
        let begun = Instant::now();
        let written = stream.write_all(&vec![0; 100_000]).await;
        let took = begun.elapsed();
        match written {
            Ok(()) => assert!(is_served, "{bytes_a_second} bytes a second"),
            Err(error) => {
                assert!(!is_served, "{bytes_a_second} bytes a second: {error}");
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                // The clock of this test stands still unless all wait.
                assert!(took >= limits.write && took < 2 * limits.write, "{took:?}");
            }
        }
        reader.abort();
    }
}
