//! What there is to do with a model directory that was written.

use std::path::Path;

/// Lines that say where the model is, how it is measured again and how it is served. `folder`: of the pictures, where they are no
/// published data set.
pub(super) fn steps(out: &Path, folder: Option<&Path>) -> String {
    let place = out.display();
    let pictures = folder.map_or(String::new(), |folder| format!(" --folder {}", folder.display()));
    let serve = models(out).map_or(String::new(), |models| {
        format!("\nserve it: classifyd serve --models {}", models.display())
    });
    format!("wrote {place}\nmeasure it again: trainer evaluate {place}{pictures}{serve}")
}

/// The folder of models in which this is a version of a model, as in `runs/pets` of `runs/pets/pets/1`.
fn models(out: &Path) -> Option<&Path> {
    let version = out.file_name()?.to_str()?;
    let is_version =
        version.parse::<u64>().is_ok_and(|number| number > 0) && !version.starts_with(['0', '+']);
    let models = out.parent().filter(|_| is_version)?.parent()?;
    Some(if models.as_os_str().is_empty() {
        Path::new(".")
    } else {
        models
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_commands_are_told() {
        assert_eq!(
            steps(Path::new("runs/pets/pets/1"), Some(Path::new("pets"))),
            "wrote runs/pets/pets/1\n\
             measure it again: trainer evaluate runs/pets/pets/1 --folder pets\n\
             serve it: classifyd serve --models runs/pets"
        );
        assert!(
            steps(Path::new("pets/2"), None)
                .ends_with("evaluate pets/2\nserve it: classifyd serve --models .")
        );
    }

    #[test]
    fn what_is_no_version_of_a_model_is_not_served() {
        for out in ["trained", "runs/best", "runs/pets/01", "1"] {
            let text = steps(Path::new(out), None);
            assert!(text.ends_with(&format!("trainer evaluate {out}")), "{text}");
        }
    }
}
