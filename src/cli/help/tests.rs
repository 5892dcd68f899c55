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
fn serve_lists_every_key_with_its_default() {
    let help = help("serve", 1000);
    for key in Config::KEYS {
        assert!(
            help.contains(&format!("{} <", key.flag())),
            "{}: {help}",
            key.name
        );
        assert!(help.contains(&format!("{}:", key.group)), "{}: {help}", key.group);
    }
    for part in [
        "[default: 127.0.0.1:8080]",
        "[default: 16.0 MiB]",
        "--listen <ADDRESS>",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn help_has_no_backticks() {
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
            assert!(!line.contains('`'), "{name}: {line}");
        }
    }
}

#[test]
fn warm_lists_only_the_keys_that_affect_it() {
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
    assert!(parsed.is_ok(), "warm accepts the options of serve");
}

#[test]
fn help_fits_into_80_columns() {
    for command in crate::cli::command().get_subcommands() {
        let name = command.get_name();
        for line in help(name, 80).lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
    // clap does not wrap these texts.
    for text in EXAMPLES.iter().map(after_help).chain([overview()]) {
        for line in text.to_string().lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

#[test]
fn each_example_is_a_valid_command_line() {
    for examples in EXAMPLES {
        for (line, _) in examples.lines {
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
            assert_eq!(words[0], examples.command, "{line}");
            let parsed =
                crate::cli::command().try_get_matches_from([vec!["classifyd".to_owned()], words].concat());
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
