use std::fmt;
use std::io;
use std::path::PathBuf;

use super::{Location, Origin};

/// Why there is no configuration. The message names the source, the key, what was expected and what
/// was found.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    /// The file is not TOML, or has an unknown key or a value of the wrong type.
    #[error("{location}: {}{message}", Prefix(key.as_deref()))]
    Syntax {
        location: Location,
        key: Option<String>,
        message: String,
    },
    /// A key has a value of the right type that cannot be used.
    #[error("{}{key}: {message}", Source(origin))]
    Value {
        origin: Origin,
        key: String,
        message: String,
    },
    #[error("the configuration cannot be written as TOML: {0}")]
    Unwritable(#[from] toml::ser::Error),
}

/// `KEY: `, if there is a key.
struct Prefix<'a>(Option<&'a str>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |key| write!(f, "{key}: "))
    }
}

/// `FILE:LINE:COLUMN: `, or the flag or variable; nothing for a default.
struct Source<'a>(&'a Origin);

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Origin::Default => Ok(()),
            Origin::File(location) => write!(f, "{location}: "),
            origin => write!(f, "{origin}: "),
        }
    }
}
