use anyhow::Result;
use onnx_graph::Attribute;
use tch::{Kind, Tensor};

use super::{Export, Module, Pass};

/// In inference, appends the mirror image of each image to the batch. Belongs with [`MirrorMean`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirror;

impl Module for Mirror {
    fn forward(&self, input: Tensor, pass: &Pass<'_>) -> Tensor {
        if pass.is_training() {
            return input;
        }
        Tensor::cat(&[&input, &input.flip([3])], 0)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let path = export.path.clone();
        let name = export.name("both");
        let graph = &mut *export.graph;
        let mut ints = |kind: &str, number: i64| graph.ints(&format!("{kind}_{path}"), &[1], &[number]);
        // From the last column to the first: the end is beyond any width.
        let (start, end) = (ints("start", -1), ints("end", -(1 << 31)));
        let (axis, step) = (ints("axis", 3), ints("step", -1));
        let slice = [input.as_str(), &start, &end, &axis, &step];
        let mirrored = graph.node("Slice", &slice, &format!("mirrored_{path}"), vec![]);
        let settings = vec![Attribute::int("axis", 0)];
        Ok(graph.node("Concat", &[&input, &mirrored], &name, settings))
    }

    fn describe(&self) -> Option<String> {
        Some("the image and its mirror image".to_owned())
    }
}

/// In inference, averages each row with the row of its mirror image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorMean;

impl Module for MirrorMean {
    fn forward(&self, input: Tensor, pass: &Pass<'_>) -> Tensor {
        if pass.is_training() {
            return input;
        }
        let classes = input.size()[1];
        input
            .view([2, -1, classes])
            .mean_dim([0i64].as_slice(), false, Kind::Float)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let path = export.path.clone();
        let name = export.name("logits");
        let graph = &mut *export.graph;
        // In `Reshape`, 0 copies the length of the axis at the same index. To copy the number of
        // classes, the `[2 * batch, classes]` rows are transposed first.
        let shape = graph.ints(&format!("shape_{path}"), &[3], &[0, 2, -1]);
        let transposition = || vec![Attribute::ints("perm", &[1, 0])];
        let turned = graph.node("Transpose", &[&input], &format!("turned_{path}"), transposition());
        let pairs = graph.node("Reshape", &[&turned, &shape], &format!("pairs_{path}"), vec![]);
        let settings = vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 0)];
        let mean = graph.node("ReduceMean", &[&pairs], &format!("mean_{path}"), settings);
        Ok(graph.node("Transpose", &[&mean], &name, transposition()))
    }

    fn describe(&self) -> Option<String> {
        Some("mean of the two".to_owned())
    }
}
