//! `trainer evaluate` and `trainer report`.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::DataArgs;
use crate::{
    data::{
        DataSet, FetchTarget, TestImages,
        image_folder::ImageFiles,
        imdb::{self, Imdb, TestReviews},
    },
    evaluate::{self, evaluate_remote},
    files::write_json,
    report,
    samples::LabelledSamples,
    training,
    transform::Transform,
};

/// The samples that a model directory is measured on.
#[derive(Debug, Args)]
struct MeasureArgs {
    /// The data set [default: the one that the model's serving.toml names].
    #[arg(long)]
    set: Option<FetchTarget>,
    #[command(flatten)]
    data: DataArgs,
    /// Measure on the images in this directory instead: those in DIR/test, else in DIR/val, else in
    /// DIR itself, in directories named after their classes.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["set", "data", "transform"])]
    folder: Option<PathBuf>,
    /// The transform of the test images.
    #[arg(long, default_value = "none")]
    transform: Transform,
}

#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    /// The model directory, such as models/digits/1.
    directory: PathBuf,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the confusion matrix and the calibration into this directory, as SVG, with the
    /// figures as JSON.
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Also send the samples to the server at this address (such as http://127.0.0.1:8080), and
    /// fail if it gives one of them another label.
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The directory of a run, whose learning curves are drawn, or a model directory, which is
    /// measured and drawn.
    path: PathBuf,
    /// The model directory whose card shows the learning curves [default: they stay in the run's
    /// directory].
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    measure: MeasureArgs,
}

impl MeasureArgs {
    fn samples(&self, directory: &Path) -> Result<Box<dyn LabelledSamples>> {
        if let Some(folder) = &self.folder {
            return Ok(Box::new(ImageFiles::to_measure(folder)?));
        }
        let set = match self.set {
            Some(set) => set,
            None => own_set(directory)?,
        };
        let data = self.data.directory_of(set)?;
        Ok(match set {
            FetchTarget::Images(set) => {
                let mut images = set.open(&data)?.test;
                let labels = classifier::Bundle::open(directory)?.labels;
                let known = |label| images.classes().contains(label);
                if labels.len() < images.classes().len() && labels.iter().all(known) {
                    eprintln!("measuring on the images of {} alone", labels.join(", "));
                    images = images.only(&labels)?;
                }
                Box::new(TestImages {
                    images: Cow::Owned(images),
                    transform: self.transform,
                })
            }
            FetchTarget::Imdb => Box::new(TestReviews(Cow::Owned(Imdb::open(&data)?.test))),
            FetchTarget::Glove => bail!("--set: expected samples with labels, found word vectors"),
        })
    }
}

pub(super) fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let samples = args.measure.samples(&args.directory)?;
    let measured = evaluate::evaluate(&args.directory, samples.as_ref())?;
    print!("{}", measured.evaluation.table());
    if let Some(path) = &args.json {
        write_json(path, &measured.evaluation)?;
    }
    if let Some(directory) = &args.pictures {
        print_paths(&report::write_evaluation(directory, &measured.evaluation)?);
    }
    let Some(url) = &args.url else {
        return Ok(ExitCode::SUCCESS);
    };
    let remote = evaluate_remote(url, &args.directory, samples.as_ref(), &measured.scores)?;
    println!(
        "\nover HTTP: accuracy {:.2} %, {} labels differ",
        100.0 * remote.accuracy,
        remote.different.len()
    );
    for (at, here, there) in &remote.different {
        println!("{}: {here} here, {there} over HTTP", samples.name(*at));
    }
    Ok(if remote.different.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) fn report(args: &ReportArgs) -> Result<ExitCode> {
    if training::is_run(&args.path) {
        let (history, best) = training::history(&args.path)?;
        let directory = match &args.into {
            Some(directory) => directory.join(report::DIRECTORY),
            None => args.path.clone(),
        };
        print_paths(&[report::write_curves(&directory, &history, best)?]);
        if let Some(directory) = &args.into {
            report::link(directory)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.path.join(classifier::bundle::MODEL).exists() {
        bail!(
            "{}: expected a run's directory (with a state.json) or a model directory (with a model.onnx), found neither",
            args.path.display()
        );
    }
    let samples = args.measure.samples(&args.path)?;
    let measured = evaluate::evaluate(&args.path, samples.as_ref())?;
    print_paths(&report::write_evaluation(
        &args.path.join(report::DIRECTORY),
        &measured.evaluation,
    )?);
    report::link(&args.path)?;
    Ok(ExitCode::SUCCESS)
}

fn print_paths(paths: &[PathBuf]) {
    for path in paths {
        println!("{}", path.display());
    }
}

/// The data set that a model directory's `serving.toml` names.
fn own_set(directory: &Path) -> Result<FetchTarget> {
    let measured = classifier::Bundle::open(directory)?.serving.measured;
    let set = measured.and_then(|measured| match DataSet::from_title(&measured.dataset) {
        Some(set) => Some(FetchTarget::Images(set)),
        None => (measured.dataset == imdb::TITLE).then_some(FetchTarget::Imdb),
    });
    set.with_context(|| {
        format!(
            "{}: serving.toml names no data set that the trainer knows: name one with --set",
            directory.display()
        )
    })
}
