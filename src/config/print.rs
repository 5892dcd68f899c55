//! `--print-config`: the effective configuration as a file.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Config, ConfigError};

/// Memory of a connection besides the head of its request.
const CONNECTION_MEMORY: u64 = 16 * 1024;

/// Memory that a limit allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryShare {
    pub purpose: &'static str,
    /// The keys that set the limit.
    pub keys: &'static str,
    pub bytes: u64,
}

impl Config {
    /// The effective values as a file that gives this configuration, with the origin of each in a
    /// comment. Hashes of API keys are left out.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut text = String::new();
        for (key, value) in self.values()? {
            let _ = match value {
                Some(value) => writeln!(text, "{key} = {value} # {}", self.origins.of(key)),
                None => writeln!(text, "# {key} is not set"),
            };
        }
        for (name, table) in &self.model {
            let _ = writeln!(text, "\n[model.{}]", toml_key(name));
            self.write_table(&mut text, &format!("model.{name}"), table)?;
        }
        for (at, api_key) in self.api_keys.iter().enumerate() {
            text.push_str("\n[[api_keys]]\n");
            self.write_table(&mut text, &format!("api_keys[{at}]"), api_key)?;
        }
        self.write_memory(&mut text);
        Ok(text)
    }

    fn write_table<T: Serialize>(&self, text: &mut String, path: &str, table: &T) -> Result<(), ConfigError> {
        for (key, value) in toml::Table::try_from(table)? {
            let origin = self.origins.of(&format!("{path}.{key}"));
            let _ = writeln!(text, "{key} = {value} # {origin}");
        }
        Ok(())
    }

    fn write_memory(&self, text: &mut String) {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let shares = self.memory();
        let sum = shares
            .iter()
            .fold(0_u64, |sum, share| sum.saturating_add(share.bytes));
        text.push_str("\n# Memory that these limits allow, on top of the models and the program itself:\n");
        for MemoryShare { purpose, keys, bytes } in shares {
            let _ = writeln!(text, "# {:>8} MiB  {purpose} ({keys})", mib(bytes));
        }
        let _ = writeln!(text, "# {:>8} MiB  in total", mib(sum));
    }

    /// The memory that each limit allows. The models and the program itself come on top.
    pub fn memory(&self) -> [MemoryShare; 4] {
        let of_a_connection = self.max_header_size.as_u64().saturating_add(CONNECTION_MEMORY);
        [
            MemoryShare {
                purpose: "bodies and long responses",
                keys: "body_memory",
                bytes: self.body_memory.as_u64(),
            },
            MemoryShare {
                purpose: "inputs that are being decoded",
                keys: "decode_memory",
                bytes: self.decode_memory.as_u64(),
            },
            MemoryShare {
                purpose: "decoded inputs",
                keys: "queue_memory",
                bytes: self.queue_memory.as_u64(),
            },
            MemoryShare {
                purpose: "connections",
                keys: "max_connections x (max_header_size + 16 KiB)",
                bytes: (self.max_connections.get() as u64).saturating_mul(of_a_connection),
            },
        ]
    }
}

/// A name as a part of a dotted key: quoted if TOML asks for it.
fn toml_key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        toml::Value::String(name.to_owned()).to_string()
    }
}
