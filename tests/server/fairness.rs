//! One client while another one has many connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Client;

use crate::harness::{Server, some_models, square};

/// The other client's connections.
const CONNECTIONS: usize = 200;

/// Sends requests on one connection until told to stop, and counts the successful responses.
async fn send_request(
    client: Client,
    url: String,
    image: Vec<u8>,
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
) {
    while !stop.load(Ordering::Relaxed) {
        let request = client.post(&url).header("content-type", "image/png");
        match request.body(image.clone()).send().await {
            Ok(answer) if answer.status() == 200 => {
                good.fetch_add(1, Ordering::Relaxed);
            }
            // Rejected: pauses before the next request, or the test would measure rejections only.
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The number of responses for a single connection, and for many connections from another address
/// meanwhile.
async fn shares(server: &Server, image: &[u8], answers: usize) -> (usize, usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let (one, many) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let url = server.url("/v1/classify");
    let from = |address: [u8; 4]| {
        Client::builder()
            .local_address(std::net::IpAddr::from(address))
            .build()
            .unwrap()
    };
    let other = from([127, 0, 0, 2]);
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tokio::spawn(send_request(
                other.clone(),
                url.clone(),
                image.to_vec(),
                Arc::clone(&stop),
                Arc::clone(&many),
            ))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = many.load(Ordering::Relaxed);
    let alone = send_request(
        from([127, 0, 0, 1]),
        url,
        image.to_vec(),
        Arc::clone(&stop),
        Arc::clone(&one),
    );
    // A separate thread, so that the client need not wait for the others' tasks.
    let alone = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(alone);
    });
    let counts = || (one.load(Ordering::Relaxed), many.load(Ordering::Relaxed) - before);
    for _ in 0..1000 {
        let (one, many) = counts();
        if one + many >= answers {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let counts = counts();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.abort();
    }
    alone.join().unwrap();
    counts
}

/// At least a tenth of an equal share, which is half.
fn assert_fair((one, many): (usize, usize)) {
    assert!(one * 20 >= one + many, "{one} of {}", one + many);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_gets_its_share_while_many_others_fill_the_queue() {
    let models = some_models(&["slow"]);
    for capacity in ["16", "1024"] {
        let options = ["--lanes", "1", "--max-batch", "4", "--queue-capacity", capacity];
        let server = Server::start(models.path(), &options);
        assert_fair(shares(&server, &square(255), 30).await);
    }
}
