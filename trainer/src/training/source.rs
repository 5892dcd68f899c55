//! Sources of samples: they make batches, changed at random in training.

use anyhow::Result;
use rand::seq::SliceRandom as _;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng as _},
};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{augment::augment, data::Images};

#[derive(Debug)]
pub struct Batch {
    /// One row for each sample, in the network's input format.
    pub inputs: Tensor,
    /// `[count]`: the index of each sample's class.
    pub labels: Tensor,
}

/// Describes a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The indices of the samples.
    pub picked: Vec<i64>,
    /// How to change the samples; `None` leaves them unchanged.
    pub change: Option<Change>,
}

/// Determines the random changes of a batch. They depend on nothing else, so a resumed run makes
/// the same changes as one without interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub seed: u64,
    /// The number of completed epochs.
    pub epoch: u32,
    /// The number of the step in the whole run, counted from 0.
    pub step: u64,
}

impl Change {
    /// Returns the random number generator of this step.
    pub fn rng(&self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.step);
        rng
    }
}

/// Samples for training or validation. A source that reads files overrides [`Source::batches`] to
/// read ahead of the network.
pub trait Source {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes one batch, on any device.
    fn batch(&self, part: &Part) -> Result<Batch>;

    /// Makes a batch for each part, in order.
    fn batches<'a>(&'a self, plan: Vec<Part>) -> Box<dyn Iterator<Item = Result<Batch>> + 'a> {
        Box::new(plan.into_iter().map(|part| self.batch(&part)))
    }

    /// The batch size for validation.
    fn looking_batch(&self) -> usize {
        500
    }

    /// Assigns the samples to the batches of an epoch. Each sample occurs once, and every epoch has
    /// its own order. The number of batches must be the same in all epochs.
    fn epoch(&self, seed: u64, epoch: u32, batch_size: usize) -> Vec<Vec<i64>> {
        let order = order(seed, epoch, self.len());
        order.chunks(batch_size).map(<[i64]>::to_vec).collect()
    }
}

/// Shuffles the samples of an epoch.
pub fn order(seed: u64, epoch: u32, count: usize) -> Vec<i64> {
    // The generators of the steps have the same seed, so this one needs another key.
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6f72_6465_7200_0000);
    rng.set_stream(u64::from(epoch));
    let mut order: Vec<i64> = (0..count as i64).collect();
    order.shuffle(&mut rng);
    order
}

/// Images of handwriting as floats: changed by [`augment`], then normalised.
#[derive(Debug)]
pub struct Ink {
    /// `[count, 1, height, width]`, with values from 0 to 1.
    pub images: Tensor,
    /// `[count]`: the index of each image's class.
    pub labels: Tensor,
    pub mean: f64,
    /// The standard deviation.
    pub deviation: f64,
}

impl Source for Ink {
    fn len(&self) -> usize {
        self.labels.numel()
    }

    fn batch(&self, part: &Part) -> Result<Batch> {
        let picked = Tensor::from_slice(&part.picked).to_device(self.labels.device());
        let mut images = self.images.index_select(0, &picked);
        if let Some(change) = &part.change {
            images = augment(&images, &mut change.rng());
        }
        Ok(Batch {
            inputs: (images - self.mean) / self.deviation,
            labels: self.labels.index_select(0, &picked),
        })
    }
}

/// The random changes to images of objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jitter {
    /// Mirrors each image in every second epoch; half of the images begin with the first epoch.
    pub flip: bool,
    /// Shifts by at most this many pixels in each direction. The border is filled by reflection.
    pub shift: u32,
    /// The side of a square at a random position that is set to the mean of the training images; 0
    /// erases nothing.
    pub erase: u32,
}

/// Images that stay in memory as bytes. Each batch is changed, normalised and converted to floats.
#[derive(Debug)]
pub struct Pixels {
    pub images: Images,
    /// The mean of each channel, for values from 0 to 1.
    pub mean: Vec<f64>,
    /// The standard deviation of each channel.
    pub deviation: Vec<f64>,
    pub jitter: Jitter,
}

impl Pixels {
    /// Computes the normalised value of each of the 256 byte values, for each channel.
    fn levels(&self) -> Vec<[f32; 256]> {
        let channels = self.mean.iter().zip(&self.deviation);
        channels
            .map(|(mean, deviation)| {
                std::array::from_fn(|level| ((level as f64 / 255.0 - mean) / deviation) as f32)
            })
            .collect()
    }
}

impl Source for Pixels {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn batch(&self, part: &Part) -> Result<Batch> {
        let levels = self.levels();
        let (height, width) = (self.images.height() as usize, self.images.width() as usize);
        let channels = levels.len();
        let mut rows = Vec::with_capacity(part.picked.len() * height * width * channels);
        let mut labels = Vec::with_capacity(part.picked.len());
        let mut rng = part.change.as_ref().map(Change::rng);
        for &at in &part.picked {
            let (pixels, label) = self.images.sample(at as usize)?;
            labels.push(i64::from(label));
            let draw = match (&part.change, &mut rng) {
                (Some(change), Some(rng)) => self.jitter.draw(at, change, (height, width), rng),
                _ => Draw::default(),
            };
            for y in 0..height {
                let row = reflected(y as i64 + draw.down, height) * width;
                for x in 0..width {
                    let erased = draw.erased.is_some_and(|(top, left)| {
                        let side = i64::from(self.jitter.erase);
                        (top..top + side).contains(&(y as i64)) && (left..left + side).contains(&(x as i64))
                    });
                    let x = if draw.mirrored { width - 1 - x } else { x };
                    let column = reflected(x as i64 + draw.right, width);
                    let pixel = &pixels[(row + column) * channels..][..channels];
                    if erased {
                        rows.extend(std::iter::repeat_n(0.0, channels));
                    } else {
                        let values = pixel.iter().zip(&levels);
                        rows.extend(values.map(|(&value, levels)| levels[usize::from(value)]));
                    }
                }
            }
        }
        let shape = [labels.len(), height, width, channels].map(|length| length as i64);
        Ok(Batch {
            // Convolutions are fastest with the channels innermost in memory.
            inputs: Tensor::from_slice(&rows).view(shape).permute([0, 3, 1, 2]),
            labels: Tensor::from_slice(&labels),
        })
    }
}

/// The random changes to one image.
#[derive(Debug, Default)]
struct Draw {
    mirrored: bool,
    down: i64,
    right: i64,
    /// The top and left edge of the erased square.
    erased: Option<(i64, i64)>,
}

impl Jitter {
    fn draw(self, at: i64, change: &Change, size: (usize, usize), rng: &mut impl Rng) -> Draw {
        let mut below = |end: u32| i64::from(rng.next_u32() % end.max(1));
        let shift = i64::from(self.shift);
        let (down, right) = (
            below(2 * self.shift + 1) - shift,
            below(2 * self.shift + 1) - shift,
        );
        let erased = (self.erase > 0).then(|| {
            let half = i64::from(self.erase / 2);
            (below(size.0 as u32) - half, below(size.1 as u32) - half)
        });
        Draw {
            mirrored: self.flip && (first_side(change.seed, at) ^ (change.epoch % 2 == 1)),
            down,
            right,
            erased,
        }
    }
}

/// Whether an image is mirrored in the first epoch. The result depends only on the seed and the
/// image.
fn first_side(seed: u64, at: i64) -> bool {
    // This is the finaliser of SplitMix64.
    let mut bits = seed.wrapping_add((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)) & 1 == 1
}

/// Reflects a coordinate at the ends of an axis, without repeating the border pixel.
fn reflected(at: i64, length: usize) -> usize {
    let last = length as i64 - 1;
    let at = at.abs();
    (if at > last { 2 * last - at } else { at }).clamp(0, last) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::values;

    #[test]
    fn an_epoch_visits_every_image_once_in_its_own_order() {
        let first = order(1, 0, 100);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<i64>>());
        assert_eq!(first, order(1, 0, 100));
        assert_ne!(first, order(1, 1, 100));
        assert_ne!(first, order(2, 0, 100));
    }

    fn pixels(jitter: Jitter) -> Pixels {
        // One image of 2 x 3 pixels with three channels and the values 0, 1, 2 / 3, 4, 5 / ...
        let images = Images::new([3, 2, 3], (0..18).collect(), vec![4], classes()).unwrap();
        Pixels {
            images,
            mean: vec![0.0, 1.0 / 255.0, 0.0],
            deviation: vec![1.0 / 255.0; 3],
            jitter,
        }
    }

    fn classes() -> Vec<String> {
        (0..10).map(|class: u8| class.to_string()).collect()
    }

    fn inputs(pixels: &Pixels, change: Option<Change>) -> Vec<f32> {
        let part = Part {
            picked: vec![0],
            change,
        };
        let batch = pixels.batch(&part).unwrap();
        assert_eq!(batch.inputs.size(), [1, 3, 2, 3]);
        let rounded = values(&batch.inputs).unwrap();
        rounded.into_iter().map(f32::round).collect()
    }

    const CHANGE: Change = Change {
        seed: 1,
        epoch: 0,
        step: 0,
    };

    #[test]
    fn channels_are_separated_and_normalised() {
        let expected = [0, 3, 6, 9, 12, 15, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 17].map(|at| at as f32);
        assert_eq!(inputs(&pixels(Jitter::default()), None), expected);
        assert_eq!(inputs(&pixels(Jitter::default()), Some(CHANGE)), expected);
    }

    #[test]
    fn an_image_is_mirrored_in_every_second_epoch() {
        let flip = pixels(Jitter {
            flip: true,
            ..Jitter::default()
        });
        let sides = [0, 1, 2, 3].map(|epoch| inputs(&flip, Some(Change { epoch, ..CHANGE }))[0]);
        assert!(
            sides == [0.0, 6.0, 0.0, 6.0] || sides == [6.0, 0.0, 6.0, 0.0],
            "{sides:?}"
        );
        let mirrored = (0..1000).filter(|&at| first_side(1, at)).count();
        assert!((450..550).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn a_shift_reflects_the_border_and_a_square_is_erased() {
        assert_eq!(
            [-2, -1, 0, 3, 4, 5].map(|at| reflected(at, 4)),
            [2, 1, 0, 3, 2, 1]
        );
        assert_eq!(reflected(7, 1), 0);
        let all = pixels(Jitter {
            erase: 9,
            ..Jitter::default()
        });
        assert!(inputs(&all, Some(CHANGE)).iter().all(|&value| value == 0.0));
        let moved = pixels(Jitter {
            shift: 1,
            ..Jitter::default()
        });
        let steps = (0..50).map(|step| inputs(&moved, Some(Change { step, ..CHANGE })));
        let distinct: std::collections::BTreeSet<String> =
            steps.map(|values| format!("{values:?}")).collect();
        assert!(distinct.len() >= 4, "{distinct:?}");
    }
}
