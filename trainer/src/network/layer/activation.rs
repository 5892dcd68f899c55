use tch::Tensor;

use super::Export;

/// A function that a layer applies to each of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Identity,
    Relu,
    Gelu,
    Silu,
}

impl Activation {
    pub(super) fn apply(self, value: &Tensor) -> Tensor {
        match self {
            Self::Identity => value.shallow_clone(),
            Self::Relu => value.relu(),
            Self::Gelu => value.gelu("none"),
            Self::Silu => value.silu(),
        }
    }

    /// Adds the function to a graph, as the last step of a layer. Returns the name of the result.
    pub(super) fn export(self, value: String, export: &mut Export<'_>) -> String {
        match self {
            Self::Identity => value,
            Self::Relu => {
                let name = export.name("relu");
                export.graph.node("Relu", &[&value], &name, vec![])
            }
            Self::Gelu => gelu(&value, export),
            Self::Silu => {
                let (inner, name) = (export.inner("logistic"), export.name("silu"));
                let logistic = export.graph.node("Sigmoid", &[&value], &inner, vec![]);
                export.graph.node("Mul", &[&value, &logistic], &name, vec![])
            }
        }
    }

    /// The end of a layer's description.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Identity => "",
            Self::Relu => ", ReLU",
            Self::Gelu => ", GELU",
            Self::Silu => ", SiLU",
        }
    }
}

/// The operator set of the graphs has no Gelu. ONNX Runtime recognises this form and fuses it.
fn gelu(value: &str, export: &mut Export<'_>) -> String {
    let path = export.path.clone();
    let name = export.name("gelu");
    let graph = &mut *export.graph;
    let root = graph.floats(&format!("root_{path}"), &[], &[std::f32::consts::SQRT_2]);
    let one = graph.floats(&format!("one_{path}"), &[], &[1.0]);
    let half = graph.floats(&format!("half_{path}"), &[], &[0.5]);
    let divided = graph.node("Div", &[value, &root], &format!("divided_{path}"), vec![]);
    let erf = graph.node("Erf", &[&divided], &format!("erf_{path}"), vec![]);
    let sum = graph.node("Add", &[&erf, &one], &format!("erf_plus_one_{path}"), vec![]);
    let product = graph.node("Mul", &[value, &sum], &format!("product_{path}"), vec![]);
    graph.node("Mul", &[&product, &half], &name, vec![])
}
