//! What `--help` says beside the options' own words: colours, groups, defaults, examples, exit codes.

use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style, Styles};
use clap::builder::{StyledStr, ValueHint};
use clap::{Arg, ArgAction, Command};

use crate::config::{Config, Origins, Settings};

const HEADER: Style = AnsiColor::Green.on_default().bold();
const LITERAL: Style = AnsiColor::Cyan.on_default().bold();
const PLACEHOLDER: Style = AnsiColor::Cyan.on_default();

/// Pairs of what stands on the left and on the right.
type Lines = &'static [(&'static str, &'static str)];

/// The keys of the configuration, as `serve --help` groups them: heading, key, what its value is called.
const KEYS: &[(&str, Lines)] = &[
    (
        "Models",
        &[
            ("models", "DIR"),
            ("default_image_model", "NAME"),
            ("default_text_model", "NAME"),
            ("onnxruntime", "FILE"),
        ],
    ),
    (
        "Connections",
        &[
            ("listen", "ADDRESS"),
            ("admin_listen", "ADDRESS"),
            ("header_timeout", "DURATION"),
            ("keep_alive_timeout", "DURATION"),
            ("write_timeout", "DURATION"),
            ("max_header_size", "SIZE"),
            ("max_connections", "N"),
            ("max_connections_per_client", "N"),
        ],
    ),
    (
        "TLS",
        &[
            ("tls_certificate", "FILE"),
            ("tls_key", "FILE"),
            ("tls_client_ca", "FILE"),
            ("tls_reload", "DURATION"),
        ],
    ),
    (
        "Who may ask, and how often",
        &[
            ("rate_limit", "RATE"),
            ("trusted_proxies", "NETWORKS"),
            ("allowed_hosts", "NAMES"),
            ("cors_origins", "ORIGINS"),
        ],
    ),
    (
        "Limits of a request",
        &[
            ("max_body", "SIZE"),
            ("body_memory", "SIZE"),
            ("max_image_side", "N"),
            ("max_image_pixels", "N"),
            ("max_request_pixels", "N"),
            ("decode_memory", "SIZE"),
            ("request_timeout", "DURATION"),
        ],
    ),
    (
        "Queues, batches and lanes",
        &[
            ("queue_capacity", "N"),
            ("queue_memory", "SIZE"),
            ("max_batch", "N"),
            ("max_batch_tokens", "N"),
            ("max_wait", "DURATION"),
            ("lanes", "N"),
            ("threads", "N"),
        ],
    ),
    (
        "GPU",
        &[
            ("device", "DEVICE"),
            ("device_id", "N"),
            ("fp16", "BOOL"),
            ("tf32", "BOOL"),
            ("gpu_memory_limit", "SIZE"),
            ("tensorrt_cache", "DIR"),
            ("gpu_libraries", "DIR"),
        ],
    ),
    ("Shutdown", &[("drain_delay", "DURATION"), ("grace", "DURATION")]),
    (
        "Log and traces",
        &[
            ("log", "FILTER"),
            ("log_format", "FORMAT"),
            ("access_log", "MODE"),
            ("otlp_endpoint", "URL"),
        ],
    ),
];

/// The groups of keys that have an effect on `warm`.
const WARM: &[&str] = &["Models", "Queues, batches and lanes", "GPU", "Log and traces"];

/// Heading of a key that stands in no group.
const OTHER: &str = "Other keys";

/// For each command: lines of a command and what it does, and what else there is to say.
const EXAMPLES: &[(&str, Lines, &str)] = &[
    (
        "serve",
        &[
            ("classifyd serve", "./models on 127.0.0.1:8080"),
            ("classifyd serve --config classifyd.toml", "a file says all"),
            ("CLASSIFYD_LISTEN=0.0.0.0:80 classifyd serve", "as a variable"),
            (
                "classifyd serve --config classifyd.toml --print-config",
                "what results, as a file",
            ),
        ],
        "Each option is also an environment variable and a key of the file:\n\
         --max-body is CLASSIFYD_MAX_BODY and max_body; see docs/configuration.md.\n\
         Durations are written as 250ms, 5s or 1m 30s, sizes as 512 KiB or 16 MiB.",
    ),
    (
        "classify",
        &[
            ("classifyd classify --model digits 7.png", "one picture"),
            (
                "classifyd classify --model images photos",
                "all pictures in a folder and below",
            ),
            ("classifyd classify --model images 'photos/**/*.jpg'", "a pattern"),
            ("classifyd classify --model sentiment 'A great film.'", "a text"),
            (
                "curl -s URL | classifyd classify --model images -",
                "standard input",
            ),
            (
                "classifyd classify --url localhost:8080 --json *.png",
                "a running server",
            ),
            (
                "classifyd classify --model digits --labels-from-folders test",
                "accuracy on test/LABEL/*",
            ),
        ],
        "On a terminal the answers are in columns, elsewhere there are tabs between\n\
         them; --json is for programs. An input that fails is named on standard error,\n\
         the others are still classified, and the exit code is 1.",
    ),
    (
        "models",
        &[
            ("classifyd models", "./models"),
            ("classifyd models --json | jq -r .name", "the names alone"),
        ],
        "",
    ),
    (
        "check",
        &[
            ("classifyd check models", "all models, their highest versions"),
            ("classifyd check models/digits/1", "one directory"),
        ],
        "",
    ),
    (
        "warm",
        &[
            (
                "classifyd warm --config classifyd.toml",
                "all models, before serve",
            ),
            (
                "classifyd warm --device tensorrt --tensorrt-cache /var/cache/classifyd",
                "build the engines",
            ),
        ],
        "All other options of serve are taken as well, and have no effect.\n\
         A model that cannot be loaded is named on standard error, the others are still\n\
         done, and the exit code is 1.",
    ),
    (
        "bench",
        &[
            (
                "classifyd bench http://localhost:8080 --model digits --file 7.png",
                "1, 8, 64 connections",
            ),
            (
                "classifyd bench http://localhost:8080 --file photos --rate 500",
                "500 requests per second",
            ),
        ],
        "A server writes a line for each request to its log: start it with\n\
         --access-log off (CLASSIFYD_ACCESS_LOG=off make serve), or the log is measured\n\
         as well.",
    ),
    (
        "healthcheck",
        &[
            ("classifyd healthcheck", "on 127.0.0.1:8080"),
            (
                "classifyd healthcheck --config classifyd.toml",
                "where that one listens",
            ),
        ],
        "Exit code 0 if it is, else 1.",
    ),
    (
        "api-key",
        &[(
            "classifyd api-key shop >> classifyd.toml",
            "the key appears on the terminal",
        )],
        "The entry for the configuration goes to standard output, the key to standard\n\
         error: the configuration holds only its hash.",
    ),
    (
        "openapi",
        &[("classifyd openapi > openapi.json", "for a generator of clients")],
        "A running server has it at /openapi.json, and as a page at /docs.",
    ),
    (
        "completions",
        &[
            (
                "classifyd completions bash > /etc/bash_completion.d/classifyd",
                "",
            ),
            (
                "classifyd completions zsh > /usr/local/share/zsh/site-functions/_classifyd",
                "",
            ),
            (
                "classifyd completions fish > ~/.config/fish/completions/classifyd.fish",
                "",
            ),
        ],
        "",
    ),
    (
        "man",
        &[
            ("classifyd man | man -l -", "read it"),
            ("classifyd man /usr/local/share/man/man1", "install all pages"),
        ],
        "",
    ),
];

const EXIT_CODES: [(&str, &str); 3] = [
    ("0", "done"),
    (
        "1",
        "failed; where there are several inputs, at least one of them",
    ),
    ("2", "wrong usage"),
];

/// Adds to the command line what its declaration does not say.
pub(super) fn complete(command: Command) -> Command {
    let styles = Styles::styled()
        .header(HEADER)
        .usage(HEADER)
        .literal(LITERAL)
        .placeholder(PLACEHOLDER);
    command
        .styles(styles)
        .max_term_width(100)
        .after_help(overview())
        .mut_subcommands(|command| {
            let name = command.get_name().to_owned();
            let command = in_plain_words(command);
            let command = match name.as_str() {
                "serve" => with_keys(command),
                "warm" => without_what_has_no_effect(with_keys(command)),
                _ => command,
            };
            let command = match EXAMPLES.iter().find(|(of, _, _)| *of == name) {
                Some((_, examples, words)) => command.after_help(after_help(examples, words)),
                None => command,
            };
            compact(command)
        })
}

/// One line or two for each option, with -h as with --help.
fn compact(command: Command) -> Command {
    command.disable_help_flag(true).arg(
        Arg::new("help")
            .short('h')
            .long("help")
            .help("Print help")
            .action(ArgAction::HelpShort),
    )
}

/// The comments on commands and options are written for rustdoc: takes its marks out.
fn in_plain_words(command: Command) -> Command {
    let command = match command.get_about().map(plain_words) {
        Some(about) => command.about(about),
        None => command,
    };
    let command = match command.get_long_about().map(plain_words) {
        Some(about) => command.long_about(about),
        None => command,
    };
    command.mut_args(|arg| {
        let arg = match arg.get_help().map(plain_words) {
            Some(help) => arg.help(help),
            None => arg,
        };
        match arg.get_long_help().map(plain_words) {
            Some(help) => arg.long_help(help),
            None => arg,
        }
    })
}

/// Without the backticks of code and the angle brackets of links.
fn plain_words(text: &StyledStr) -> String {
    let text = text.to_string().replace('`', "");
    let mut pieces = text.split("<http");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str("http");
        plain.push_str(&piece.replacen('>', "", 1));
    }
    plain
}

/// Hides the keys that `warm` takes only because `serve` does.
fn without_what_has_no_effect(command: Command) -> Command {
    command.mut_args(|arg| {
        let key = arg.get_id().to_string();
        let is_key = Config::KEYS.iter().any(|(known, _)| *known == key);
        let has_effect = KEYS
            .iter()
            .any(|(heading, keys)| WARM.contains(heading) && keys.iter().any(|(known, _)| *known == key));
        arg.hide(is_key && !has_effect)
    })
}

/// Groups the keys of the configuration, and names their defaults.
fn with_keys(command: Command) -> Command {
    let defaults = defaults();
    command.mut_args(|arg| {
        let key = arg.get_id().to_string();
        if !Config::KEYS.iter().any(|(known, _)| *known == key) {
            return arg;
        }
        let place = KEYS
            .iter()
            .find_map(|(heading, keys)| Some((heading, keys.iter().find(|(id, _)| *id == key)?.1)));
        let (heading, value_name) = place.map_or((OTHER, None), |(heading, name)| (*heading, Some(name)));
        // What their names follow from stands below the options, once.
        let mut arg = arg.help_heading(heading).hide_env(true);
        if let Some(name) = value_name {
            arg = arg.value_name(name).value_hint(match name {
                "FILE" => ValueHint::FilePath,
                "DIR" => ValueHint::DirPath,
                _ => ValueHint::Unknown,
            });
        }
        match (defaults.get(&key), arg.get_help().cloned()) {
            (Some(value), Some(help)) if !plain(value).is_empty() => {
                arg.help(format!("{help} [default: {}]", plain(value)))
            }
            _ => arg,
        }
    })
}

/// The keys with their values where nothing says otherwise.
fn defaults() -> toml::Table {
    let config =
        Config::load(Settings::default(), Origins::default(), None).and_then(|config| config.to_toml());
    // The defaults are a valid configuration, or every start would fail.
    config.ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        // As on the command line.
        toml::Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn overview() -> StyledStr {
    let mut text = String::new();
    section(
        &mut text,
        "Examples",
        &[
            ("classifyd serve", "serve ./models on 127.0.0.1:8080"),
            ("classifyd classify --model digits 7.png", "labels for a picture"),
            ("classifyd models", "what is in ./models"),
            ("classifyd check models", "does each model what its trainer saw?"),
        ],
    );
    text.push('\n');
    section(&mut text, "Exit codes", &EXIT_CODES);
    let _ = write!(
        text,
        "\n{LITERAL}classifyd COMMAND --help{LITERAL:#} has the options of a command, and examples."
    );
    StyledStr::from(text)
}

fn after_help(examples: &[(&str, &str)], words: &str) -> StyledStr {
    let mut text = String::new();
    section(&mut text, "Examples", examples);
    if !words.is_empty() {
        let _ = write!(text, "\n{words}");
    }
    StyledStr::from(text.trim_end().to_owned())
}

/// A heading, and below it two columns; what is too wide for the first stands on a line of its own.
fn section(text: &mut String, heading: &str, lines: &[(&str, &str)]) {
    const WIDEST: usize = 44;
    let width = lines
        .iter()
        .map(|(left, _)| left.len())
        .filter(|width| *width <= WIDEST)
        .max()
        .unwrap_or(0);
    let _ = writeln!(text, "{HEADER}{heading}:{HEADER:#}");
    for (left, right) in lines {
        let _ = write!(text, "  {LITERAL}{left}{LITERAL:#}");
        if right.is_empty() {
            text.push('\n');
        } else if left.len() > width {
            let _ = writeln!(text, "\n      {right}");
        } else {
            let _ = writeln!(text, "{:1$}  {right}", "", width - left.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(name: &str, width: usize) -> String {
        let mut command = crate::cli::command().term_width(width);
        command.build();
        let command = command
            .find_subcommand_mut(name)
            .unwrap_or_else(|| panic!("no command {name}"));
        command.render_help().to_string()
    }

    #[test]
    fn every_key_of_the_configuration_has_its_place_and_its_default() {
        let help = help("serve", 1000);
        assert!(
            !help.contains(OTHER),
            "each new key belongs to a group of `KEYS`: {help}"
        );
        for part in [
            "[default: 127.0.0.1:8080]",
            "[default: 16.0 MiB]",
            "--listen <ADDRESS>",
        ] {
            assert!(help.contains(part), "{part}: {help}");
        }
        let known: usize = KEYS.iter().map(|(_, keys)| keys.len()).sum();
        let settings = <Settings as clap::Args>::augment_args(Command::new("keys"));
        assert_eq!(
            known,
            settings.get_arguments().count(),
            "a key that is no longer there"
        );
    }

    #[test]
    fn help_has_no_marks_of_rustdoc() {
        let mut command = crate::cli::command();
        command.build();
        let mut helps = vec![("classifyd".to_owned(), command.render_long_help().to_string())];
        for command in command.get_subcommands_mut() {
            let name = command.get_name().to_owned();
            helps.push((name.clone(), command.render_help().to_string()));
            helps.push((name, command.render_long_help().to_string()));
        }
        assert!(helps.len() > 20);
        for (name, help) in helps {
            for line in help.lines() {
                assert!(!line.contains('`') && !line.contains("<http"), "{name}: {line}");
            }
        }
        assert_eq!(
            plain_words(&"As in <http://a.example>, with `b`: <name>".to_owned().into()),
            "As in http://a.example, with b: <name>"
        );
    }

    #[test]
    fn warm_lists_only_what_has_an_effect_on_it() {
        let help = help("warm", 1000);
        for option in [
            "--models",
            "--device ",
            "--lanes",
            "--tensorrt-cache",
            "--config",
            "--log ",
        ] {
            assert!(help.contains(option), "{option}: {help}");
        }
        for option in [
            "--tls-certificate",
            "--rate-limit",
            "--grace",
            "--listen",
            "--max-body",
        ] {
            assert!(!help.contains(option), "{option}: {help}");
        }
        let parsed = crate::cli::command().try_get_matches_from(["classifyd", "warm", "--grace", "1s"]);
        assert!(parsed.is_ok(), "the same command line as for serve");
    }

    #[test]
    fn help_fits_into_80_columns() {
        for command in crate::cli::command().get_subcommands() {
            let name = command.get_name();
            for line in help(name, 80).lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
        let written = EXAMPLES
            .iter()
            .map(|(_, examples, words)| after_help(examples, words));
        for text in written.chain([overview()]) {
            // Broken by hand, where that reads best.
            for line in text.to_string().lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn each_example_is_one_of_an_existing_command_and_is_accepted() {
        for (name, examples, _) in EXAMPLES {
            for (line, _) in *examples {
                let line = line.rsplit(" | classifyd").next().unwrap();
                let words: Vec<String> = line
                    .split(" | ")
                    .next()
                    .unwrap()
                    .split(" >")
                    .next()
                    .unwrap()
                    .split(' ')
                    .skip_while(|word| word.starts_with("CLASSIFYD_") || *word == "classifyd")
                    .map(|word| word.trim_matches('\'').to_owned())
                    .filter(|word| !word.is_empty())
                    .collect();
                assert_eq!(words[0], *name, "{line}");
                let parsed = crate::cli::command()
                    .try_get_matches_from([vec!["classifyd".to_owned()], words].concat());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}
