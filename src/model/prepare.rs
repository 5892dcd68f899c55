//! Inputs to rows: small inputs on the request's own task, the others in the pool.

use bytes::Bytes;
use classifier::image::{self, Header};
use classifier::text::{TextError, Tokens};
use classifier::{ImageError, InputKind, Prepared};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{Input, Model, ModelError};
use crate::cpu::{Cost, PoolError};
use crate::engine::{Job, LaneError, Outputs};
use batching::Reservation;

/// Small images of a request that are decoded in a row before the task yields. Each takes at most
/// 60 us (up to 96 x 96 pixels), against 130 us on another thread.
const INLINE_IMAGES: usize = 16;

/// Most bytes of all texts of a request that are tokenised on the request's task. A byte takes 0.3
/// to 0.4 us, so this takes less than 2 ms. A review of 1,300 bytes takes 0.3 to 0.5 ms.
const INLINE_TEXT: usize = 4096;

/// Bytes of memory that tokenising takes for each byte of text that is read.
const TEXT_MEMORY: u64 = 100;

/// An input on its way to a row.
enum Step {
    Done(Prepared),
    Decode(Bytes, Cost),
    Tokenise(String, Cost),
}

impl Step {
    fn cost(&self) -> Option<Cost> {
        match self {
            Self::Done(_) => None,
            Self::Decode(_, cost) | Self::Tokenise(_, cost) => Some(*cost),
        }
    }
}

impl Model {
    /// Turns inputs into rows.
    ///
    /// `reservation` holds the request's place in the queue, but only until an input has to wait
    /// for the pool: large images would otherwise take up places of requests that could run.
    pub(super) async fn prepare<C>(
        &self,
        inputs: Vec<Input>,
        charge: impl Fn(u64) -> Result<(), C>,
        reservation: Reservation<Job, Outputs, LaneError>,
        deadline: tokio::time::Instant,
    ) -> Result<Vec<Prepared>, ModelError<C>> {
        let steps = self.first_steps(inputs).await?;
        let costs: Vec<Cost> = steps.iter().filter_map(Step::cost).collect();
        if costs.is_empty() {
            let done = steps.into_iter().filter_map(|step| match step {
                Step::Done(prepared) => Some(prepared),
                Step::Decode(..) | Step::Tokenise(..) => None,
            });
            return Ok(done.collect());
        }
        drop(reservation);
        if self.kind() == InputKind::Image {
            let (pixels, limit) = (costs.iter().map(|cost| cost.work).sum(), self.max_request_pixels);
            if pixels > limit {
                return Err(ModelError::Pixels { pixels, limit });
            }
            charge(pixels).map_err(ModelError::Charge)?;
        }
        let _admitted = self.pool.admit(&costs, deadline)?;
        let steps: Vec<_> = steps
            .into_iter()
            .enumerate()
            .map(|(input, step)| self.last_step(input, step))
            .collect();
        // A few at a time, so that the images of one request do not all queue before those of other
        // requests.
        let prepared = stream::iter(steps)
            .buffered(self.pool.most_at_a_time())
            .try_collect();
        let mut is_aborted = self.is_aborted.subscribe();
        tokio::select! {
            biased;
            prepared = prepared => prepared,
            _ = is_aborted.wait_for(|is_aborted| *is_aborted) => Err(ModelError::Aborted),
        }
    }

    /// Finishes small inputs and finds out the cost of the others.
    async fn first_steps<C>(&self, inputs: Vec<Input>) -> Result<Vec<Step>, ModelError<C>> {
        let text_bytes: usize = inputs
            .iter()
            .map(|input| match input {
                Input::Text(text) => text.len(),
                Input::Image(_) => 0,
            })
            .sum();
        let tokenise_inline = text_bytes <= INLINE_TEXT;
        let mut steps = Vec::with_capacity(inputs.len());
        for (at, input) in inputs.into_iter().enumerate() {
            if at > 0 && at % INLINE_IMAGES == 0 {
                tokio::task::yield_now().await;
            }
            steps.push(match input {
                Input::Image(image) => self.first_image_step(at, image).await?,
                Input::Text(text) => self.first_text_step(at, text, tokenise_inline)?,
            });
        }
        Ok(steps)
    }

    async fn first_image_step<C>(&self, input: usize, image: Bytes) -> Result<Step, ModelError<C>> {
        let preprocessor = self.bundle.preprocessor.image()?;
        let limits = self.image_limits;
        let failed = |error: ImageError| ModelError::Image { input, error };
        let cost = |header: &Header<'_>| Cost {
            work: header.pixels(),
            memory: header.memory(),
        };
        let cost = match Header::read_start(&image, &limits).map_err(failed)? {
            Some(header) if header.is_small() => {
                let decoded = header.decode().and_then(|decoded| preprocessor.apply(decoded));
                return Ok(Step::Done(decoded.map_err(failed)?.into()));
            }
            Some(header) => cost(&header),
            // The file has so many blocks before its header that reading them takes long.
            None => {
                let image = image.clone();
                let read = move || Header::read(&image, &limits).map(|header| cost(&header));
                self.pool.run(read).await?.map_err(failed)?
            }
        };
        Ok(Step::Decode(image, cost))
    }

    fn first_text_step<C>(&self, input: usize, text: String, inline: bool) -> Result<Step, ModelError<C>> {
        let tokenizer = self.bundle.preprocessor.text()?;
        if inline {
            let tokens = tokenizer.encode(&text);
            return tokens
                .map(|tokens| Step::Done(tokens.into()))
                .map_err(|error| ModelError::Text { input, error });
        }
        let bytes_read = text.len().min(tokenizer.most_read()) as u64;
        let cost = Cost {
            work: bytes_read,
            memory: bytes_read * TEXT_MEMORY,
        };
        Ok(Step::Tokenise(text, cost))
    }

    async fn last_step<C>(&self, input: usize, step: Step) -> Result<Prepared, ModelError<C>> {
        match step {
            Step::Done(prepared) => Ok(prepared),
            Step::Decode(image, cost) => self
                .decode(image, cost)
                .await
                .map_err(|error| pool_error(input, InputKind::Image, error))?
                .map_err(|error| ModelError::Image { input, error }),
            Step::Tokenise(text, cost) => self
                .tokenise(text, cost)
                .await
                .map_err(|error| pool_error(input, InputKind::Text, error))?
                .map(Prepared::from)
                .map_err(|error| ModelError::Text { input, error }),
        }
    }

    async fn decode(&self, image: Bytes, cost: Cost) -> Result<Result<Prepared, ImageError>, PoolError> {
        let Ok(preprocessor) = self.bundle.preprocessor.image().cloned() else {
            // Cannot happen: the first step has checked the kind.
            return Err(PoolError::Panicked);
        };
        let limits = self.image_limits;
        let decode = move || {
            let decoded = image::decode(&image, &limits)?;
            preprocessor.apply(decoded).map(Prepared::from)
        };
        self.pool.run_at(cost, decode).await
    }

    async fn tokenise(&self, text: String, cost: Cost) -> Result<Result<Tokens, TextError>, PoolError> {
        let Ok(tokenizer) = self.bundle.preprocessor.text().cloned() else {
            // Cannot happen: the first step has checked the kind.
            return Err(PoolError::Panicked);
        };
        self.pool.run_at(cost, move || tokenizer.encode(&text)).await
    }
}

fn pool_error<C>(input: usize, kind: InputKind, error: PoolError) -> ModelError<C> {
    match error {
        PoolError::TooLarge { memory, limit } => ModelError::InputMemory {
            input,
            kind,
            memory,
            limit,
        },
        error => ModelError::Pool(error),
    }
}
