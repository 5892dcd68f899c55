//! Transfer learning: the features that another classifier computes from images, and a new last
//! layer.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use classifier::{
    Bundle, ImageLimits,
    bundle::{CONFIG, MODEL, PREPROCESSOR_CONFIG, SERVING},
    image::{decode, to_rgb},
};
use image::DynamicImage;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use serde_json::json;
use tch::Tensor;

use crate::{
    data::image_folder::{ImageFiles, read},
    network::{Network, values},
    parallel::in_parallel,
    photo::Variation,
    progress::Bar,
    training::{Batch, Part, Source},
};
use onnx_graph::Backbone;

/// The smallest standard deviation by which a feature is divided. It limits the amplification of
/// features that are nearly constant.
const LEAST_DEVIATION: f64 = 1e-3;

/// A classifier whose last dense layer is to be replaced.
#[derive(Debug)]
pub(super) struct Donor {
    pub(super) bundle: Bundle,
    pub(super) backbone: Backbone,
    /// `[width]`: the mean of each feature over the training images.
    mean: Tensor,
    /// `[width]`: the standard deviation of each feature.
    deviation: Tensor,
}

/// The features of samples.
#[derive(Debug)]
pub(super) struct Rows {
    /// `[count, width]`, normalised to mean 0 and variance 1 over the training samples.
    features: Tensor,
    /// `[count]`: the index of each sample's class.
    labels: Tensor,
}

/// How many versions of each image features are computed for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Views {
    /// The number of versions of each training image. The first is the image itself; the others are
    /// changed at random.
    pub(super) count: u32,
    pub(super) variation: Variation,
    pub(super) seed: u64,
}

impl Donor {
    /// Opens the model directory `from`, removes its last dense layer and computes the features of
    /// all images. Uses `scratch` as a temporary directory.
    pub(super) fn open(
        from: &Path,
        scratch: &Path,
        training: &ImageFiles,
        validation: &ImageFiles,
        views: Views,
    ) -> Result<(Self, [Rows; 2])> {
        classifier::runtime::library::load(None)?;
        let bundle = Bundle::open(from)?;
        // A text classifier cannot be used for images.
        bundle
            .preprocessor
            .image()
            .with_context(|| from.display().to_string())?;
        let backbone = Backbone::read(&bundle.model(), bundle.serving.output.as_deref())?;
        let width = backbone.width();
        write_features_model(&bundle, &backbone, scratch)?;
        let compute = |files: &ImageFiles, views: Views| features(scratch, files, width, views);
        let once = Views { count: 1, ..views };
        let (training, validation) = (compute(training, views)?, compute(validation, once)?);
        fs::remove_dir_all(scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
        let mean = training.0.mean_dim([0i64].as_slice(), false, tch::Kind::Float);
        let deviation = training
            .0
            .std_dim([0i64].as_slice(), false, false)
            .clamp_min(LEAST_DEVIATION);
        let rows = |(features, labels): (Tensor, Tensor)| Rows {
            features: (features - &mean) / &deviation,
            labels,
        };
        let rows = [rows(training), rows(validation)];
        let donor = Self {
            bundle,
            backbone,
            mean,
            deviation,
        };
        Ok((donor, rows))
    }

    /// Returns the classifier's graph with `head` as its last layer, and the name of its output.
    pub(super) fn with_head(
        &self,
        head: &Network,
        description: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, String)> {
        let find = |end: &str| {
            let mut weights = head.weights().iter();
            let found = weights.find(|(name, _)| name.ends_with(end));
            found.map(|(_, tensor)| tensor.detach().to_device(tch::Device::Cpu))
        };
        let (Some(weights), Some(bias)) = (find(".weight"), find(".bias")) else {
            bail!("expected a head of one dense layer");
        };
        // The head was trained on normalised features, but the graph computes them unnormalised.
        let weights = weights / &self.deviation;
        let bias = bias - weights.matmul(&self.mean);
        Ok(self
            .backbone
            .with_head(&values(&weights)?, &values(&bias)?, description, metadata)?)
    }
}

impl Source for Rows {
    fn len(&self) -> usize {
        self.labels.numel()
    }

    fn batch(&self, part: &Part) -> Result<Batch> {
        let picked = Tensor::from_slice(&part.picked);
        Ok(Batch {
            inputs: self.features.index_select(0, &picked),
            labels: self.labels.index_select(0, &picked),
        })
    }
}

/// Writes the graph without its last layer as a model directory, so that the `classifier` crate
/// preprocesses images as for the original classifier.
fn write_features_model(bundle: &Bundle, backbone: &Backbone, directory: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    write(MODEL, &backbone.features())?;
    let names: BTreeMap<String, String> = (0..backbone.width())
        .map(|at| (at.to_string(), format!("feature {at}")))
        .collect();
    write(CONFIG, json!({ "id2label": names }).to_string().as_bytes())?;
    let preprocessor = bundle.directory.join(PREPROCESSOR_CONFIG);
    write(PREPROCESSOR_CONFIG, &read(&preprocessor)?)?;
    let layout = bundle.serving.layout.unwrap_or_default();
    write(SERVING, toml::to_string(&json!({ "layout": layout }))?.as_bytes())
}

/// Computes the features of every image, `[count, width]`, and its class, `[count]`. The first
/// versions of all images come first, then all second versions, and so on.
fn features(model: &Path, files: &ImageFiles, width: usize, views: Views) -> Result<(Tensor, Tensor)> {
    let images = files.len();
    let count = images * views.count as usize;
    let bar = Bar::samples("features", count as u64, 0);
    let rows = in_parallel(
        count,
        || Ok(classifier::open(model)?),
        |classifier, number| {
            let (view, at) = (number / images, number % images);
            let path = &files.files[at].0;
            let bytes = read(path)?;
            let mut features = || -> Result<Vec<f32>> {
                let mut image = decode(&bytes, &ImageLimits::default())?;
                if view > 0 {
                    let mut rng = ChaCha8Rng::seed_from_u64(views.seed);
                    rng.set_stream((view as u64) << 32 | at as u64);
                    let plain = to_rgb(image);
                    let side = plain.width().min(plain.height());
                    image = DynamicImage::ImageRgb8(views.variation.apply(&plain, side, &mut rng)?);
                }
                let row = classifier.bundle().preprocessor.image()?.apply(image)?;
                Ok(classifier.run(&[row.into()])?)
            };
            let row = features().with_context(|| path.display().to_string())?;
            if let Some(value) = row.iter().find(|value| !value.is_finite()) {
                bail!("{}: expected finite features, found {value}", path.display());
            }
            bar.advance(1);
            Ok(row)
        },
    )?;
    bar.finish();
    let labels: Vec<i64> = (0..count)
        .map(|number| files.files[number % images].1 as i64)
        .collect();
    let features = Tensor::from_slice(&rows.concat()).view([count as i64, width as i64]);
    Ok((features, Tensor::from_slice(&labels)))
}
