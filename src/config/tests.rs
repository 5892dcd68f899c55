use std::time::Duration;

use bytesize::ByteSize;

use super::*;

fn load(file: &str, flags: Settings) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("classifyd.toml");
    std::fs::write(&path, file).unwrap();
    Config::load(flags, Origins::default(), Some(&path)).map_err(|error| error.to_string())
}

pub(super) fn defaults() -> Config {
    Config::load(Settings::default(), Origins::default(), None).unwrap()
}

#[test]
fn flags_override_the_file_and_the_file_overrides_the_defaults() {
    let flags = Settings {
        queue_capacity: Some(Count::new(77)),
        ..Settings::default()
    };
    let config = load(
        "queue_capacity = 5\ngrace = \"1m 30s\"\nmax_body = \"2 MiB\"",
        flags,
    )
    .unwrap();
    assert_eq!(config.queue_capacity.get(), 77);
    assert_eq!(config.grace.0, Duration::from_secs(90));
    assert_eq!(config.max_body.0, ByteSize::mib(2));
    assert_eq!(config.listen.0.port(), 8080);
}

#[test]
fn an_unknown_key_is_refused_with_its_location() {
    let error = load("listen = \"127.0.0.1:1\"\nmax_bach = 3", Settings::default()).unwrap_err();
    assert!(
        error.ends_with("classifyd.toml:2:1: max_bach: unknown key; did you mean max_batch?"),
        "{error}"
    );
    for (file, part) in [
        ("listn = 1", "listn: unknown key; did you mean listen?"),
        ("max_batch_size = 1", "did you mean max_batch?"),
        ("rate-limit = 1", "did you mean rate_limit?"),
        ("tls_cert = 1", "did you mean tls_certificate?"),
        (
            "workers = 1",
            "unknown key; `classifyd serve --print-config` lists them all",
        ),
        (
            "[[api_keys]]\nmax_body = 1",
            "api_keys[0].max_body: unknown key; expected one of name, sha256",
        ),
    ] {
        let error = load(file, Settings::default()).unwrap_err();
        assert!(error.contains(part), "{file}: expected {part} in {error}");
    }
}

#[test]
fn wrong_values_are_refused_with_what_was_expected() {
    for (file, part) in [
        (
            "grace = \"soon\"",
            ":1:9: grace: expected a duration such as 250ms or 5s, found \"soon\"",
        ),
        (
            "grace = 5",
            ":1:9: grace: invalid type: integer `5`, expected a duration such as",
        ),
        ("grace = \n", ":1:9: string values must be quoted"),
        (
            "queue_capacity = 0",
            ":1:1: queue_capacity: expected at least 1, found 0",
        ),
        ("\nlanes = 0", ":2:1: lanes: expected at least 1"),
        (
            "[model.digits]\nlanes = 0",
            ":2:1: model.digits.lanes: expected at least 1, found 0",
        ),
        (
            "[model.digits]\nlane = 1",
            ":2:1: model.digits.lane: unknown key; did you mean lanes?",
        ),
        ("[model.digits]\nmax_wait = 1", ":2:12: model.digits.max_wait: "),
        (
            "[models.digits]\nlanes = 1",
            "keys of one model belong in [model.NAME]",
        ),
        (
            "max_batch = 2000",
            ":1:1: max_batch: expected at most queue_capacity (1024), found 2000",
        ),
        (
            "queue_capacity = 64\n[model.digits]\nmax_batch = 100",
            ":3:1: model.digits.max_batch: expected at most queue_capacity (64), found 100",
        ),
        (
            "max_batch = 64\n[model.digits]\nqueue_capacity = 32",
            ":1:1: max_batch: expected at most model.digits.queue_capacity (32), found 64",
        ),
        (
            "request_timeout = \"0s\"",
            ":1:1: request_timeout: expected more than 0, found 0s",
        ),
        (
            "[model.digits]\nrequest_timeout = \"0s\"",
            ":2:1: model.digits.request_timeout: expected more than 0, found 0s",
        ),
        (
            "[model.digits]\ngpu_memory_limit = \"0 GiB\"",
            ":2:1: model.digits.gpu_memory_limit: expected at least 1, found 0",
        ),
        (
            "listen = \"localhost:80\"",
            ":1:10: listen: expected an address with a port such as 127.0.0.1:8080 or [::]:8080, found \"localhost:80\"",
        ),
        (
            "max_body = \"12 bananas\"",
            ":1:12: max_body: expected a size such as 512 KiB or 16 MiB, found \"12 bananas\"",
        ),
        (
            "max_body = -1",
            ":1:12: max_body: invalid value: integer `-1`, expected a size such as",
        ),
        (
            "log = \"info,classifyd=loud\"",
            ":1:1: log: expected a filter such as info or info,classifyd=debug, found \"info,classifyd=loud\"",
        ),
        (
            "rate_limit = \"5\"",
            ":1:14: rate_limit: expected a rate such as 100/s",
        ),
        (
            "trusted_proxies = [\"10.0.0\"]",
            ":1:19: trusted_proxies: \"10.0.0\": expected a network such as 10.0.0.0/8, or an address such as 10.0.0.1",
        ),
        (
            "cors_origins = [\"example.org\"]",
            "cors_origins: \"example.org\": expected an origin such as",
        ),
        (
            "tls_key = \"a\"",
            ":1:1: tls_key: expected tls_certificate as well, found none",
        ),
        (
            "tls_client_ca = \"a\"",
            ":1:1: tls_client_ca: expected tls_certificate and tls_key",
        ),
        (
            "max_header_size = \"1 KiB\"",
            "max_header_size: expected at least 4.0 KiB",
        ),
        (
            "max_header_size = \"2 MiB\"",
            "max_header_size: expected at most 1.0 MiB",
        ),
        (
            "queue_memory = \"1 KiB\"",
            ":1:1: queue_memory: expected at least 1.0 MiB",
        ),
        ("[[api_keys]]\nname = \"a\"", "missing field `sha256`"),
        (
            "[[api_keys]]\nname = \"a\"\nsha256 = \"the key\"",
            ":3:10: api_keys[0].sha256: expected the 64 hexadecimal digits",
        ),
        ("log_format = \"xml\"", "pretty"),
        (
            "device = \"gpu\"",
            ":1:10: device: unknown variant `gpu`, expected one of `cpu`, `cuda`",
        ),
        (
            "gpu_memory_limit = \"0 GiB\"",
            ":1:1: gpu_memory_limit: expected at least 1, found 0",
        ),
    ] {
        let error = load(file, Settings::default()).unwrap_err();
        assert!(error.contains(part), "{file}: {error}");
    }
}

#[test]
fn the_printed_configuration_can_be_loaded_again() {
    let flags = Settings {
        lanes: Some(Count::new(3)),
        grace: Some(HumanDuration(Duration::from_millis(1500))),
        ..Settings::default()
    };
    let file = "max_wait = \"2ms\"\ndevice = \"auto\"\ngpu_memory_limit = \"2 GiB\"\n[model.\"a b\"]\nlanes = 2\n\
         request_timeout = \"1s\"\ndevice = \"tensorrt\"\nfp16 = true\ngpu_memory_limit = \"1 GiB\"\n[model.c]\nversion = 3";
    let config = load(file, flags).unwrap();
    let printed = config.to_toml().unwrap();
    let again = load(&printed, Settings::default()).unwrap();
    assert_eq!(
        Config {
            origins: config.origins.clone(),
            ..again
        },
        config,
        "{printed}"
    );
}

#[test]
fn a_models_own_table_overrides_the_keys_for_all_models() {
    let flags = Settings {
        lanes: Some(Count::new(4)),
        ..Settings::default()
    };
    let config = load(
        "max_wait = \"1ms\"\n[model.digits]\nlanes = 2\nmax_batch = 7\nrequest_timeout = \"2s\"",
        flags,
    )
    .unwrap();
    let digits = config.of_model("digits");
    assert_eq!(digits.lanes, Some(Count::new(2)));
    assert_eq!(digits.max_batch, Some(Count::new(7)));
    assert_eq!(*digits.request_timeout, Duration::from_secs(2));
    assert_eq!(*digits.max_wait, Duration::from_millis(1));
    assert_eq!(config.of_model("images").lanes, Some(Count::new(4)));
}

/// Keys of an entry `[[api_keys]]`.
pub(super) const API_KEY: [&str; 4] = ["name", "sha256", "rate_limit", "priority"];

const EXAMPLE: &str = include_str!("../../classifyd.example.toml");

#[test]
fn the_example_has_the_defaults() {
    let example = load(EXAMPLE, Settings::default()).unwrap();
    assert_eq!(
        Config {
            origins: Origins::default(),
            ..example
        },
        defaults()
    );
}

/// The example with the keys without a default, which are commented out.
fn uncommented() -> String {
    let is_key = |line: &str| {
        let name = line.split_once(" = ").map_or("", |(name, _)| name);
        line.starts_with('[')
            || !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let line = |line| match str::strip_prefix(line, "# ") {
        Some(key) if is_key(key) => key,
        _ => line,
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_examples_of_keys_without_a_default_can_be_loaded() {
    let config = load(&uncommented(), Settings::default()).unwrap();
    let is_there = |key: &str| {
        let origin = config.origins.of(key);
        assert!(matches!(origin, Origin::File(_)), "{key} is not in the example");
    };
    for key in Config::KEYS {
        is_there(key.name);
        if key.per_model {
            is_there(&format!("model.digits.{}", key.name));
        }
    }
    for key in API_KEY {
        is_there(&format!("api_keys[0].{key}"));
    }
}

#[test]
fn api_keys_are_checked_and_their_hashes_not_printed() {
    let hash = |byte: u8| hex::encode([byte; 32]);
    let keys = |entries: &[(&str, u8)]| {
        let entry = |(name, byte): &(&str, u8)| {
            format!("[[api_keys]]\nname = \"{name}\"\nsha256 = \"{}\"\n", hash(*byte))
        };
        load(
            &entries.iter().map(entry).collect::<String>(),
            Settings::default(),
        )
    };
    for (entries, part) in [
        (
            [("a", 1), ("a", 2)],
            ":5:1: api_keys[1].name: expected a different name for each key, found \"a\" again",
        ),
        (
            [("a", 1), ("b", 1)],
            ":6:1: api_keys[1].sha256: expected a different key for each name",
        ),
        (
            [("a", 1), ("b c", 2)],
            ":5:1: api_keys[1].name: expected 1 to 64 letters",
        ),
    ] {
        let error = keys(&entries).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let printed = keys(&[("a", 0xa1), ("b", 0xb2)]).unwrap().to_toml().unwrap();
    assert!(printed.contains("sha256 = \"[redacted]\" # "), "{printed}");
    assert!(
        printed.contains("name = \"b\" # ") && !printed.contains("a1a1"),
        "{printed}"
    );
    assert!(toml::from_str::<toml::Table>(&printed).is_ok(), "{printed}");
}

#[test]
fn the_memory_of_the_limits_is_printed_with_its_sum() {
    let config = load(
        "max_connections = 100\nmax_header_size = \"12 KiB\"\nqueue_memory = \"5 MiB\"\nbody_memory = \"40 MiB\"",
        Settings::default(),
    )
    .unwrap();
    let printed = config.to_toml().unwrap();
    for line in [
        "#       40 MiB  bodies and long responses (body_memory)",
        "#        5 MiB  decoded inputs (queue_memory)",
        "#        3 MiB  connections (max_connections x (max_header_size + 16 KiB))",
    ] {
        assert!(
            printed.lines().any(|found| found == line),
            "expected {line} in:\n{printed}"
        );
    }
    let sum: u64 = config.memory().iter().map(|share| share.bytes).sum();
    let line = format!("# {:>8} MiB  in total", sum.div_ceil(1 << 20));
    assert!(printed.lines().any(|found| found == line), "{printed}");
}

#[test]
fn the_default_limits_leave_room_for_models_in_a_gibibyte() {
    let config = defaults();
    let sum: u64 = config.memory().iter().map(|share| share.bytes).sum();
    assert!(sum <= 900 << 20, "{}", sum >> 20);
}
