//! Examples and notes below the options of each command.

/// What `--help` shows below the options of a command.
pub(super) struct Examples {
    pub command: &'static str,
    /// Command lines, each with what it does.
    pub lines: &'static [(&'static str, &'static str)],
    /// Broken by hand at 80 columns. May be empty.
    pub notes: &'static str,
}

pub(super) const EXAMPLES: &[Examples] = &[
    Examples {
        command: "serve",
        lines: &[
            ("classifyd serve", "serve ./models on 127.0.0.1:8080"),
            ("classifyd serve --config classifyd.toml", "read a file"),
            (
                "CLASSIFYD_LISTEN=0.0.0.0:80 classifyd serve",
                "set an environment variable",
            ),
            (
                "classifyd serve --config classifyd.toml --print-config",
                "show the effective configuration",
            ),
        ],
        notes: "Each option is also an environment variable and a key of the file:\n\
            --max-body is CLASSIFYD_MAX_BODY and max_body; see docs/configuration.md.\n\
            Write durations as 250ms, 5s or 1m 30s, and sizes as 512 KiB or 16 MiB.",
    },
    Examples {
        command: "classify",
        lines: &[
            ("classifyd classify --model digits 7.png", "one image"),
            (
                "classifyd classify --model images photos",
                "a directory, with subdirectories",
            ),
            ("classifyd classify --model images 'photos/**/*.jpg'", "a pattern"),
            ("classifyd classify --model sentiment 'A great film.'", "a text"),
            (
                "curl -s URL | classifyd classify --model images -",
                "standard input",
            ),
            (
                "classifyd classify --url localhost:8080 --json *.png",
                "send them to a running server",
            ),
            (
                "classifyd classify --model digits --labels-from-folders test",
                "accuracy on test/LABEL/*",
            ),
        ],
        notes: "Results are aligned in columns on a terminal and separated by tabs elsewhere.\n\
            For programs use --json. If an input fails, the error goes to standard error,\n\
            the other inputs are still classified, and the exit code is 1.",
    },
    Examples {
        command: "models",
        lines: &[
            ("classifyd models", "list ./models"),
            ("classifyd models --json | jq -r .name", "only the names"),
        ],
        notes: "",
    },
    Examples {
        command: "check",
        lines: &[
            ("classifyd check models", "the highest version of every model"),
            ("classifyd check models/digits/1", "one model directory"),
        ],
        notes: "",
    },
    Examples {
        command: "warm",
        lines: &[
            (
                "classifyd warm --config classifyd.toml",
                "all models, before serve",
            ),
            (
                "classifyd warm --device tensorrt --tensorrt-cache /var/cache/classifyd",
                "build the TensorRT engines",
            ),
        ],
        notes: "The other options of serve are accepted and have no effect. If a model cannot be\n\
            loaded, the error goes to standard error, the other models are still loaded, and\n\
            the exit code is 1.",
    },
    Examples {
        command: "bench",
        lines: &[
            (
                "classifyd bench http://localhost:8080 --model digits --file 7.png",
                "1, 8 and 64 connections",
            ),
            (
                "classifyd bench http://localhost:8080 --file photos --rate 500",
                "500 requests per second",
            ),
        ],
        notes: "Start the server with --access-log off (CLASSIFYD_ACCESS_LOG=off make serve).\n\
            Otherwise it logs a line for each request, and you measure the log as well.",
    },
    Examples {
        command: "healthcheck",
        lines: &[
            ("classifyd healthcheck", "ask 127.0.0.1:8080"),
            (
                "classifyd healthcheck --config classifyd.toml",
                "ask at the address in this file",
            ),
        ],
        notes: "The exit code is 0 if the server is ready, else 1.",
    },
    Examples {
        command: "api-key",
        lines: &[(
            "classifyd api-key shop >> classifyd.toml",
            "show the key on the terminal",
        )],
        notes: "The entry for the configuration goes to standard output and the key to standard\n\
            error. The configuration holds only the hash of the key.",
    },
    Examples {
        command: "openapi",
        lines: &[("classifyd openapi > openapi.json", "for a client generator")],
        notes: "A running server has the document at /openapi.json, and as a page at /docs.",
    },
    Examples {
        command: "completions",
        lines: &[
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
        notes: "",
    },
    Examples {
        command: "man",
        lines: &[
            ("classifyd man | man -l -", "read the manual page"),
            ("classifyd man /usr/local/share/man/man1", "install all pages"),
        ],
        notes: "",
    },
];
