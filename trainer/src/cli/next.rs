//! The commands to use a new model directory with.

use std::path::Path;

/// Says where the model directory is, how to measure it again and how to serve it. `folder` is the
/// directory of the images, if they are no published data set.
pub(super) fn steps(out: &Path, folder: Option<&Path>) -> String {
    let place = out.display();
    let measure_on = folder.map_or(String::new(), |folder| format!(" --folder {}", folder.display()));
    let serve = models(out).map_or(String::new(), |models| {
        format!("\nserve it: classifyd serve --models {}", models.display())
    });
    format!("wrote {place}\nmeasure it again: trainer evaluate {place}{measure_on}{serve}")
}

/// The directory that has this model directory as a version of a model, as `runs/pets` has
/// `runs/pets/pets/1`.
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
