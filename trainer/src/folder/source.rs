//! Makes batches of image files. Threads read, decode and change images ahead of the network.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use classifier::{
    ImageLimits,
    image::{ImagePreprocessor, Layout, PreprocessorConfig, Resample, Size, decode, to_rgb},
};
use image::DynamicImage;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use tch::Tensor;

use crate::{
    data::image_folder::{ImageFiles, read},
    parallel,
    photo::Variation,
    training::{Batch, Change, Part, Source},
};

/// The mean of each channel over the training images of `ImageNet`, for values from 0 to 1, as used
/// by torchvision's models.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// The standard deviation of each channel.
const DEVIATION: [f64; 3] = [0.229, 0.224, 0.225];
/// The ratio of the shorter side of a resized image to the side of the centre crop, as for most
/// `ImageNet` classifiers: 256 to 224.
const MARGIN: (u32, u32) = (8, 7);
/// The number of batches that may wait for the network.
const BATCHES_AHEAD: usize = 2;
/// The memory that a batch of images may take in validation, without the network's activations.
const LOOKING_BYTES: usize = 32 << 20;

/// The preprocessing for a network with an input of `side` x `side` pixels.
pub(super) fn preprocessor(side: u32) -> PreprocessorConfig {
    let square = Size::Exact {
        height: side,
        width: side,
    };
    PreprocessorConfig {
        do_resize: Some(true),
        size: Some(Size::ShortestEdge {
            shortest_edge: side * MARGIN.0 / MARGIN.1,
        }),
        resample: Some(Resample::Bilinear),
        do_center_crop: true,
        crop_size: Some(square),
        ..normalised(square)
    }
}

/// The preprocessing of an image that already has the network's input size.
fn normalised(size: Size) -> PreprocessorConfig {
    PreprocessorConfig {
        do_convert_rgb: Some(true),
        size: Some(size),
        do_rescale: Some(true),
        rescale_factor: Some(1.0 / 255.0),
        do_normalize: Some(true),
        image_mean: Some(MEAN.to_vec()),
        image_std: Some(DEVIATION.to_vec()),
        ..PreprocessorConfig::default()
    }
}

#[derive(Debug)]
pub(super) struct Photos {
    work: Arc<Work>,
    threads: usize,
}

/// The state that the threads share.
#[derive(Debug)]
struct Work {
    files: Vec<(PathBuf, usize)>,
    side: u32,
    variation: Variation,
    /// The preprocessing that the server applies.
    served: ImagePreprocessor,
    /// The preprocessing of an image that was changed at random.
    changed: ImagePreprocessor,
}

impl Photos {
    pub(super) fn new(files: &ImageFiles, side: u32, variation: Variation, threads: usize) -> Result<Self> {
        let square = Size::Exact {
            height: side,
            width: side,
        };
        Ok(Self {
            work: Arc::new(Work {
                files: files.files.clone(),
                side,
                variation,
                served: ImagePreprocessor::new(&preprocessor(side), Layout::Nhwc)?,
                changed: ImagePreprocessor::new(&normalised(square), Layout::Nhwc)?,
            }),
            threads,
        })
    }
}

impl Work {
    /// Reads one image as a row of height x width x channels.
    fn row(&self, at: usize, change: Option<&Change>) -> Result<Vec<f32>> {
        let path = &self.files[at].0;
        let bytes = read(path)?;
        let row = || -> Result<Vec<f32>> {
            let image = decode(&bytes, &ImageLimits::default())?;
            let Some(change) = change else {
                return Ok(self.served.apply(image)?);
            };
            // Each image has its own generator, so that the result does not depend on the threads.
            let mut rng = ChaCha8Rng::seed_from_u64(change.seed);
            rng.set_stream(u64::from(change.epoch) << 32 | at as u64);
            let changed = self.variation.apply(&to_rgb(image), self.side, &mut rng)?;
            Ok(self.changed.apply(DynamicImage::ImageRgb8(changed))?)
        };
        row().with_context(|| path.display().to_string())
    }
}

impl Source for Photos {
    fn len(&self) -> usize {
        self.work.files.len()
    }

    fn batch(&self, part: &Part) -> Result<Batch> {
        let mut batches = self.batches(vec![part.clone()]);
        batches.next().context("a batch is missing")?
    }

    fn batches<'a>(&'a self, plan: Vec<Part>) -> Box<dyn Iterator<Item = Result<Batch>> + 'a> {
        let largest = plan.iter().map(|part| part.picked.len()).max().unwrap_or(0);
        let jobs: Vec<(usize, Option<Change>)> = plan
            .iter()
            .flat_map(|part| part.picked.iter().map(|&at| (at as usize, part.change)))
            .collect();
        let work = Arc::clone(&self.work);
        let mut rows = parallel::ahead(jobs.len(), self.threads, BATCHES_AHEAD * largest, move |number| {
            let (at, change) = &jobs[number];
            work.row(*at, change.as_ref())
        });
        let side = i64::from(self.work.side);
        Box::new(plan.into_iter().map(move |part| {
            let count = part.picked.len();
            let mut values = Vec::with_capacity(count * (side * side * 3) as usize);
            for _ in 0..count {
                values.extend(rows.next().context("an image is missing")??);
            }
            let labels: Vec<i64> = part
                .picked
                .iter()
                .map(|&at| self.work.files[at as usize].1 as i64)
                .collect();
            Ok(Batch {
                // Convolutions are fastest with the channels innermost in memory.
                inputs: Tensor::from_slice(&values)
                    .view([count as i64, side, side, 3])
                    .permute([0, 3, 1, 2]),
                labels: Tensor::from_slice(&labels),
            })
        }))
    }

    fn looking_batch(&self) -> usize {
        let row = (self.work.side * self.work.side) as usize * 3 * size_of::<f32>();
        (LOOKING_BYTES / row).clamp(1, 500)
    }
}
