//! The default settings, for the help.

use std::fmt::Write as _;

use crate::{folder, recipe, sentiment, training::Config};

/// The default settings of the tasks whose names begin with `prefix`: those that most have, then
/// what each has instead.
pub(super) fn table(prefix: &str) -> String {
    let common = settings(&Config::default());
    let mut text = format!("Defaults: {}; but\n", joined(&common));
    for (title, config) in all().iter().filter(|(title, _)| title.starts_with(prefix)) {
        let own = settings(config);
        let different: Vec<_> = own
            .into_iter()
            .filter(|setting| !common.contains(setting))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {title}: {}", joined(&different));
    }
    text
}

fn all() -> Vec<(String, Config)> {
    let recipes = recipe::all().map(|recipe| {
        let title = format!("{} --network {}", recipe.target.name(), recipe.network);
        (title, recipe.config)
    });
    let reviews =
        sentiment::Kind::ALL.map(|kind| (format!("sentiment --network {}", kind.name()), kind.config()));
    let folders = [
        ("folder".to_owned(), folder::from_scratch()),
        ("folder --from DIR".to_owned(), folder::transfer()),
    ];
    recipes.chain(reviews).chain(folders).collect()
}

/// The names and values of settings, as on the command line.
fn settings(config: &Config) -> Vec<(String, String)> {
    let Ok(serde_json::Value::Object(settings)) = serde_json::to_value(config) else {
        return Vec::new();
    };
    let named = settings.iter().filter(|(name, _)| *name != "network");
    named
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.replace('_', "-"), value.replace('_', "-"))
        })
        .collect()
}

fn joined(settings: &[(String, String)]) -> String {
    let settings: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    settings.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_states_common_defaults_once_and_then_the_differences() {
        let table = table("");
        let mut lines = table.lines();
        let common = lines.next().unwrap();
        assert!(
            common.contains("schedule cosine") && common.contains("batch-size 128"),
            "{common}"
        );
        let plain = lines
            .find(|line| line.contains("images --network plain"))
            .unwrap();
        assert_eq!(
            plain.trim(),
            "images --network plain: batch-size 64, epochs 5, optimizer adam, schedule constant"
        );
        for recipe in recipe::all() {
            let title = format!("{} --network {}", recipe.target.name(), recipe.network);
            assert!(table.contains(&title), "{title}");
        }
    }

    #[test]
    fn help_of_a_task_shows_its_own_networks_alone() {
        let table = table("digits");
        assert!(table.contains("digits --network mlp"), "{table}");
        assert!(!table.contains("images"), "{table}");
    }
}
