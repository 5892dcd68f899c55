//! `trainer samples`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::DataArgs;
use crate::{
    data::{
        self, FetchTarget, Images,
        imdb::{self, Imdb},
    },
    export::file_name,
    files::{create, write},
    numbers::at_least_one,
    transform::png,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PublishedSplit {
    Train,
    Test,
}

#[derive(Debug, Args)]
pub(super) struct SamplesArgs {
    /// The data set.
    set: FetchTarget,
    #[command(flatten)]
    data: DataArgs,
    /// The directory to write to.
    #[arg(long, value_name = "DIR", required_unless_present = "sheet")]
    out: Option<PathBuf>,
    /// Also, or instead, write one PNG file with a row for each class, in the order of the labels.
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// The split of the data set.
    #[arg(long, default_value = "test")]
    split: PublishedSplit,
    /// The number of samples of each class: the first images, or reviews spread evenly over their
    /// numbers.
    #[arg(long, default_value_t = 4, value_parser = at_least_one())]
    per_class: u32,
    /// The number of images of each class to skip first.
    #[arg(long, default_value_t = 0)]
    skip: u32,
    /// Only these classes, separated by commas [default: all].
    #[arg(long, value_delimiter = ',', value_name = "CLASS,..")]
    classes: Vec<String>,
    /// Write DIR/LABEL/NUMBER.png, as `train folder` reads them.
    #[arg(long)]
    folders: bool,
}

pub(super) fn samples(args: &SamplesArgs) -> Result<ExitCode> {
    let set = match args.set {
        FetchTarget::Images(set) => set,
        FetchTarget::Imdb => return review_samples(args),
        FetchTarget::Glove => bail!("expected a data set with samples, found word vectors"),
    };
    let data = set.open(&args.data.directory_of(args.set)?)?;
    let images = match args.split {
        PublishedSplit::Train => data.training,
        PublishedSplit::Test => data.test,
    };
    let picked = pick(&images, args)?;
    if let Some(out) = &args.out {
        write_images(&images, &picked, out, args.folders)?;
    }
    if let Some(path) = &args.sheet {
        write(path, png(&data::sheet(&images, &picked, args.per_class)?)?)?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The indices of the images that the options select, class by class.
fn pick(images: &Images, args: &SamplesArgs) -> Result<Vec<usize>> {
    let known = images.classes();
    data::check_classes(known, &args.classes)?;
    let is_wanted = |class: &String| args.classes.is_empty() || args.classes.contains(class);
    let mut picked = Vec::new();
    for (label, _) in known.iter().enumerate().filter(|(_, class)| is_wanted(class)) {
        let labels = images.labels().iter().enumerate();
        let own = labels
            .filter(|(_, found)| usize::from(**found) == label)
            .map(|(at, _)| at);
        picked.extend(own.skip(args.skip as usize).take(args.per_class as usize));
    }
    Ok(picked)
}

fn write_images(images: &Images, picked: &[usize], out: &Path, in_directories: bool) -> Result<()> {
    for &at in picked {
        let class = file_name(images.class(at).unwrap_or_default());
        let path = if in_directories {
            out.join(class).join(format!("{at:05}.png"))
        } else {
            out.join(format!("{class}_{at}.png"))
        };
        create(path.parent().unwrap_or(out))?;
        write(&path, png(&images.get(at).context("an image is missing")?)?)?;
        if !in_directories {
            println!("{}", path.display());
        }
    }
    if in_directories {
        println!("{}", out.display());
    }
    Ok(())
}

fn review_samples(args: &SamplesArgs) -> Result<ExitCode> {
    let (Some(out), None, false, [], 0) = (
        &args.out,
        &args.sheet,
        args.folders,
        args.classes.as_slice(),
        args.skip,
    ) else {
        bail!("expected --out, and neither --sheet, --folders, --classes nor --skip, for reviews");
    };
    let imdb = Imdb::open(&args.data.directory_of(args.set)?)?;
    let reviews = match args.split {
        PublishedSplit::Train => imdb.training,
        PublishedSplit::Test => imdb.test,
    };
    let mut lines = String::new();
    for review in imdb::spread(&reviews, args.per_class as usize) {
        let line = json!({"name": review.name, "label": imdb::CLASSES[review.label], "text": review.text});
        lines += &(line.to_string() + "\n");
    }
    create(out)?;
    let path = out.join("imdb.jsonl");
    write(&path, lines)?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}
