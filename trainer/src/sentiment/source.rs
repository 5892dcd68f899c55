//! Reviews as batches.

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use tch::Tensor;

use crate::{
    network::words::PADDING,
    training::{Batch, Change, Part, Source, order},
};

/// So many batches at a time are filled with reviews sorted by length, so that little of them is
/// padding.
const SORTED: usize = 50;

/// Reviews as token ids. Training sees a window at a random place of a long one.
#[derive(Debug)]
pub(super) struct Texts {
    rows: Vec<Vec<i64>>,
    labels: Vec<i64>,
    window: usize,
}

impl Texts {
    pub(super) fn new(rows: Vec<Vec<i64>>, positive: &[bool], window: usize) -> Self {
        Self {
            rows,
            labels: positive.iter().map(|&positive| i64::from(positive)).collect(),
            window,
        }
    }

    /// The shortest first, so that little of a batch in this order is padding.
    pub(super) fn by_length(rows: &[Vec<i64>], positive: &[bool]) -> Self {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&at| rows[at].len());
        let positive: Vec<bool> = order.iter().map(|&at| positive[at]).collect();
        Self::new(
            order.iter().map(|&at| rows[at].clone()).collect(),
            &positive,
            usize::MAX,
        )
    }
}

impl Source for Texts {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn batch(&self, part: &Part) -> Result<Batch> {
        let mut rng = part.change.as_ref().map(Change::rng);
        let mut rows = Vec::with_capacity(part.picked.len());
        let mut labels = Vec::with_capacity(part.picked.len());
        for &at in &part.picked {
            let row = self
                .rows
                .get(at as usize)
                .with_context(|| format!("no review {at}"))?;
            let row = match &mut rng {
                Some(rng) if row.len() > self.window => {
                    let first = rng.random_range(0..=row.len() - self.window);
                    &row[first..first + self.window]
                }
                _ => row,
            };
            rows.push(row);
            labels.push(self.labels[at as usize]);
        }
        Ok(Batch {
            inputs: padded(&rows),
            labels: Tensor::from_slice(&labels),
        })
    }

    fn epoch(&self, seed: u64, epoch: u32, batch_size: usize) -> Vec<Vec<i64>> {
        let mut order = order(seed, epoch, self.len());
        let length = |at: &i64| self.rows[*at as usize].len().min(self.window);
        let mut batches = Vec::new();
        for part in order.chunks_mut(batch_size * SORTED) {
            part.sort_by_key(length);
            batches.extend(part.chunks(batch_size).map(<[i64]>::to_vec));
        }
        // Another order than that of the lengths; every batch but the last of the epoch is full.
        let shuffled = crate::training::order(seed ^ 0x0074_6578_7473, epoch, batches.len());
        shuffled
            .into_iter()
            .map(|at| std::mem::take(&mut batches[at as usize]))
            .collect()
    }
}

/// Rows of one length, `[rows, longest]`.
pub(super) fn padded(rows: &[&[i64]]) -> Tensor {
    let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0).max(1);
    let mut ids = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        ids.extend_from_slice(row);
        ids.resize(ids.len() + longest - row.len(), PADDING);
    }
    Tensor::from_slice(&ids).view([rows.len() as i64, longest as i64])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_review_once_among_others_of_its_length() {
        let rows: Vec<Vec<i64>> = (0..500).map(|at| vec![at; 1 + at as usize % 40]).collect();
        let positive = vec![true; rows.len()];
        let texts = Texts::new(rows.clone(), &positive, 100);
        let batches = texts.epoch(1, 0, 16);
        assert_eq!(batches.len(), 500_usize.div_ceil(16));
        let mut seen = batches.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<i64>>());
        let padding: usize = batches
            .iter()
            .map(|batch| {
                let lengths = batch.iter().map(|&at| rows[at as usize].len());
                batch.len() * lengths.clone().max().unwrap() - lengths.sum::<usize>()
            })
            .sum();
        assert!(padding < 1500, "{padding}");
        assert_eq!(batches, texts.epoch(1, 0, 16));
        assert_ne!(batches, texts.epoch(1, 1, 16));
    }

    #[test]
    fn training_sees_a_window_and_measuring_the_whole() {
        let rows = vec![(1..=50).collect::<Vec<i64>>(), vec![7, 8]];
        let texts = Texts::new(rows, &[true, false], 10);
        let change = Change {
            seed: 1,
            epoch: 0,
            step: 3,
        };
        let part = |change| Part {
            picked: vec![0, 1],
            change,
        };
        let whole = texts.batch(&part(None)).unwrap();
        assert_eq!(whole.inputs.size(), [2, 50]);
        assert_eq!(Vec::<i64>::try_from(&whole.labels).unwrap(), [1, 0]);
        let window = texts.batch(&part(Some(change))).unwrap();
        let ids: Vec<i64> = Vec::try_from(window.inputs.flatten(0, -1)).unwrap();
        assert_eq!(ids.len(), 20);
        assert!(ids[..10].windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert_eq!(ids[10..], [7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
