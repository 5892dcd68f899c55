//! Adds numbers in batches. Many callers each want one sum; the adder is slow to start and then
//! fast.
//!
//! ```text
//! cargo run -p batching --example additions
//! ```
//!
//! While the adder works on a batch, the requests that come meanwhile wait and become the next one.
//! The output shows how the batches grow with the number of callers, without any setting for it.

use std::time::Duration;

use batching::{Batch, BatchService, Limits, Submission};
use tower::{Service, ServiceBuilder};

/// Two numbers to add.
type Pair = (u32, u32);

/// Adds the pairs of a batch, one result for each. Takes 5 ms for a batch of any size.
async fn add(batch: Batch<Pair>) -> Result<Vec<Result<u32, String>>, String> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    let sum = |(a, b): &Pair| a.checked_add(*b).ok_or_else(|| format!("{a} + {b} is too large"));
    Ok(batch.inputs.iter().map(sum).collect())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // An `async fn` is ready whenever it is asked, so up to any number of batches would run at a
    // time. The limit makes it ready only while no batch runs, as hardware would be.
    let adder = ServiceBuilder::new().concurrency_limit(1).service_fn(add);
    let (service, worker) = BatchService::pair(adder, Limits::new(64, 1_000));
    let worker = tokio::spawn(worker);

    for callers in [1, 10, 100] {
        let requests = (0..callers).map(|caller| {
            let mut service = service.clone();
            tokio::spawn(async move {
                let submission = Submission::new((caller, 1)).timeout(Duration::from_secs(1));
                service.call(submission).await
            })
        });
        let mut largest = 0;
        for (caller, request) in requests.collect::<Vec<_>>().into_iter().enumerate() {
            let reply = request.await??;
            assert_eq!(reply.output as usize, caller + 1);
            largest = largest.max(reply.batch_weight);
        }
        println!("callers: {callers:>3}, largest batch: {largest:>2}");
    }

    let mut callers = service.clone();
    if let Err(error) = callers.call(Submission::new((u32::MAX, 1))).await {
        println!("a sum that fails fails alone: {error}");
    }

    service.queue().close();
    worker.await??;
    Ok(())
}
