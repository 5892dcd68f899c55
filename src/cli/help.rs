//! What `--help` shows besides the doc comments of the options: colours, defaults, examples, exit
//! codes.

mod examples;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style, Styles};
use clap::builder::{Resettable, StyledStr};
use clap::{Arg, ArgAction, Command};

use self::examples::{EXAMPLES, Examples};
use crate::config::{Config, Origins, Settings};

const HEADER: Style = AnsiColor::Green.on_default().bold();
const LITERAL: Style = AnsiColor::Cyan.on_default().bold();
const PLACEHOLDER: Style = AnsiColor::Cyan.on_default();

/// The groups of keys that have an effect on `warm`.
const WARM: &[&str] = &["Models", "Queues, batches and lanes", "GPU", "Log and traces"];

const OVERVIEW: [(&str, &str); 4] = [
    ("classifyd serve", "serve ./models on 127.0.0.1:8080"),
    (
        "classifyd classify --model digits 7.png",
        "print labels for an image",
    ),
    ("classifyd models", "list ./models"),
    ("classifyd check models", "verify them by their golden samples"),
];

const EXIT_CODES: [(&str, &str); 3] = [
    ("0", "success"),
    ("1", "failure; with several inputs, of at least one of them"),
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
            let command = without_backticks(command);
            let command = match name.as_str() {
                "serve" => with_defaults(command),
                "warm" => without_unused_keys(with_defaults(command)),
                _ => command,
            };
            let command = match EXAMPLES.iter().find(|examples| examples.command == name) {
                Some(examples) => command.after_help(after_help(examples)),
                None => command,
            };
            with_short_help(command)
        })
}

/// `--help` is as short as `-h`. The long texts of the options are for the manual pages.
fn with_short_help(command: Command) -> Command {
    command.disable_help_flag(true).arg(
        Arg::new("help")
            .short('h')
            .long("help")
            .help("Print help")
            .action(ArgAction::HelpShort),
    )
}

/// Rewrites the texts of an option. An option without a long text keeps none.
fn map_help(arg: Arg, map: impl Fn(&StyledStr) -> String) -> Arg {
    let (short, long) = (arg.get_help().map(&map), arg.get_long_help().map(&map));
    arg.help(resettable(short)).long_help(resettable(long))
}

fn resettable(text: Option<String>) -> Resettable<StyledStr> {
    text.map(StyledStr::from).into()
}

/// Doc comments mark code with backticks, which a terminal does not show as code.
fn without_backticks(command: Command) -> Command {
    let plain = |text: &StyledStr| text.to_string().replace('`', "");
    let (about, long_about) = (
        command.get_about().map(plain),
        command.get_long_about().map(plain),
    );
    command
        .about(resettable(about))
        .long_about(resettable(long_about))
        .mut_args(|arg| map_help(arg, plain))
}

/// Hides the keys that `warm` accepts only because `serve` does.
fn without_unused_keys(command: Command) -> Command {
    command.mut_args(|arg| {
        let key = Config::KEYS.iter().find(|key| arg.get_id() == key.name);
        arg.hide(key.is_some_and(|key| !WARM.contains(&key.group)))
    })
}

/// Adds the defaults of the configuration's keys. clap does not know them: an option that is not
/// given leaves the value to the file.
fn with_defaults(command: Command) -> Command {
    let defaults = defaults();
    command.mut_args(|arg| match defaults.get(arg.get_id().as_str()).map(plain) {
        Some(default) if !default.is_empty() => map_help(arg, |help| format!("{help} [default: {default}]")),
        _ => arg,
    })
}

fn defaults() -> toml::Table {
    let config =
        Config::load(Settings::default(), Origins::default(), None).and_then(|config| config.to_toml());
    // Cannot fail: the defaults are a valid configuration, or no server would start.
    config.ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A value as it is written on the command line.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn overview() -> StyledStr {
    let mut text = String::new();
    section(&mut text, "Examples", &OVERVIEW);
    text.push('\n');
    section(&mut text, "Exit codes", &EXIT_CODES);
    let _ = write!(
        text,
        "\n{LITERAL}classifyd COMMAND --help{LITERAL:#} shows the options of a command, with examples."
    );
    StyledStr::from(text)
}

fn after_help(examples: &Examples) -> StyledStr {
    let mut text = String::new();
    section(&mut text, "Examples", examples.lines);
    if !examples.notes.is_empty() {
        let _ = write!(text, "\n{}", examples.notes);
    }
    StyledStr::from(text.trim_end().to_owned())
}

/// A heading with two columns below it. Where the left one is too wide, the right one goes on the
/// next line.
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
