use anyhow::Result;
use tch::Tensor;

use super::{Activation, Export, Init, Layer, Module, Pass, describe};

/// The sum of two branches with the same input, then an activation. A branch without layers passes
/// its input on.
#[derive(Debug, Clone)]
pub struct Residual {
    pub body: Vec<Layer>,
    pub shortcut: Vec<Layer>,
    pub activation: Activation,
}

impl Module for Residual {
    fn initialise(&self, init: &mut Init<'_>) -> Result<()> {
        let path = init.path.clone();
        init.sequence(&self.body, &format!("{path}.body."))?;
        init.sequence(&self.shortcut, &format!("{path}.shortcut."))
    }

    fn forward(&self, input: Tensor, pass: &Pass<'_>) -> Tensor {
        let body = format!("{}.body.", pass.path);
        let shortcut = format!("{}.shortcut.", pass.path);
        let sum = pass.sequence(&self.body, &body, input.shallow_clone())
            + pass.sequence(&self.shortcut, &shortcut, input);
        self.activation.apply(&sum)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let path = export.path.clone();
        let body = export.sequence(&self.body, &format!("{path}.body."), input.clone(), None)?;
        let shortcut = export.sequence(&self.shortcut, &format!("{path}.shortcut."), input, None)?;
        let name = export.name_before(self.activation, "sum");
        let sum = export.graph.node("Add", &[&body, &shortcut], &name, vec![]);
        Ok(self.activation.export(sum, export))
    }

    fn describe(&self) -> Option<String> {
        let shortcut = if self.shortcut.is_empty() {
            "its input".to_owned()
        } else {
            format!("({})", describe(&self.shortcut))
        };
        Some(format!(
            "sum of ({}) and {shortcut}{}",
            describe(&self.body),
            self.activation.describe()
        ))
    }
}
