//! The macro that turns one declaration of a configuration key into everything that needs the key.

/// Declares the keys of the configuration, in groups:
///
/// ```text
/// "Name of a group" {
///     /// A first paragraph, for `--help` and the table in docs/configuration.md.
///     ///
///     /// Further paragraphs, for the manual page and classifyd.example.toml.
///     key("VALUE_NAME"): Type = default, per_model, example "value in TOML";
/// }
/// ```
///
/// * A key without a default has no effect until it is set: its value is an `Option`.
/// * `per_model` keys may also stand in a table `[model.NAME]`, `server` keys may not.
/// * An example is needed for keys without a default and for `per_model` keys.
///
/// The flag is `--key` with hyphens and the environment variable `CLASSIFYD_KEY` in capitals. The
/// macro generates [`Settings`](super::Settings), [`Config`](super::Config),
/// [`ModelTable`](super::ModelTable), [`ModelConfig`](super::ModelConfig), the functions that merge
/// and print them, and [`Config::KEYS`](super::Config::KEYS), from which `--help` takes its groups.
/// Tests compare the example file and the documentation with it.
macro_rules! keys {
    ($(
        $group:literal {
            $(
                $(#[doc = $doc:literal])+
                $key:ident($value_name:literal): $type:ty $(= $default:expr)?, $scope:ident
                    $(, example $example:literal)?;
            )+
        }
    )+) => {
        /// The keys as one source has them. A key that the source does not have is `None`.
        #[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Settings {
            $($(
                $(#[doc = $doc])+
                #[arg(
                    long,
                    env = variable!($key),
                    value_name = $value_name,
                    value_hint = value_hint($value_name),
                    help_heading = $group,
                    // The name follows from that of the key, as the help says once.
                    hide_env = true
                )]
                pub $key: Option<$type>,
            )+)+
            /// Tables `[model.NAME]`. Only a file can have them.
            #[arg(skip)]
            pub model: BTreeMap<String, ModelTable>,
            /// Entries `[[api_keys]]`. Only a file can have them.
            #[arg(skip)]
            pub api_keys: Vec<ApiKey>,
        }

        /// The effective configuration.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $($(
                $(#[doc = $doc])+
                pub $key: effective_type!($type $(, $default)?),
            )+)+
            /// Keys for single models. [`Config::of_model`] merges them with the keys for all
            /// models.
            pub model: BTreeMap<String, ModelTable>,
            /// Empty: no request needs an API key.
            pub api_keys: Vec<ApiKey>,
            /// Where the value of each key came from.
            pub origins: Origins,
        }

        impl Config {
            /// Every key, in the order of the declaration.
            pub const KEYS: &'static [Key] = &[$($(
                Key {
                    name: stringify!($key),
                    variable: variable!($key),
                    group: $group,
                    doc: concat!($($doc, "\n"),+),
                    example: first!($($example,)? ""),
                    per_model: scope!($scope),
                },
            )+)+];

            /// Takes each key from the first source that has it.
            pub(super) fn resolve(strong: Settings, weak: Settings, origins: Origins) -> Self {
                Self {
                    $($($key: or_default!(strong.$key.or(weak.$key) $(, $default)?),)+)+
                    model: weak.model,
                    api_keys: weak.api_keys,
                    origins,
                }
            }

            /// Checks each value by itself.
            pub(super) fn validate(&self) -> Result<(), ConfigError> {
                let check = |key: &str, value: &dyn Validate| {
                    value.validate().map_err(|message| self.mistake(key, &message))
                };
                $($(check(stringify!($key), &self.$key)?;)+)+
                for (name, table) in &self.model {
                    table.validate(|key, value| check(&format!("model.{name}.{key}"), value))?;
                }
                Ok(())
            }

            /// Each key with its value in TOML, or `None` if it has no value.
            pub(super) fn values(&self) -> Result<Vec<(&'static str, Option<Value>)>, ConfigError> {
                Ok(vec![$($((stringify!($key), in_toml!(&self.$key $(, $default)?)),)+)+])
            }
        }

        model_keys!({ $($($key: $type $(= $default)?, $scope;)+)+ });
    };
}

/// Sorts out the `per_model` keys, one key a step, and declares the types for single models.
macro_rules! model_keys {
    ({ $key:ident: $type:ty $(= $default:expr)?, per_model; $($rest:tt)* } $($done:tt)*) => {
        model_keys!({ $($rest)* } $($done)* $key: $type $(= $default)?;);
    };
    ({ $key:ident: $type:ty $(= $default:expr)?, server; $($rest:tt)* } $($done:tt)*) => {
        model_keys!({ $($rest)* } $($done)*);
    };
    ({} $($key:ident: $type:ty $(= $default:expr)?;)+) => {
        /// A table `[model.NAME]` of the file. A key in it overrides the key for all models,
        /// whatever source that came from.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct ModelTable {
            /// Version to serve. Default: the highest.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub version: Option<Count<u64>>,
            $(
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $key: Option<$type>,
            )+
        }

        impl ModelTable {
            fn validate<E>(&self, check: impl Fn(&str, &dyn Validate) -> Result<(), E>) -> Result<(), E> {
                check("version", &self.version)?;
                $(check(stringify!($key), &self.$key)?;)+
                Ok(())
            }
        }

        /// The effective configuration of one model.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct ModelConfig {
            $(pub $key: effective_type!($type $(, $default)?),)+
        }

        impl Config {
            /// The configuration of this model: the keys of its own table, else those for all
            /// models.
            pub fn of_model(&self, name: &str) -> ModelConfig {
                let own = self.model.get(name).cloned().unwrap_or_default();
                ModelConfig {
                    $($key: own_or_shared!(own.$key, self.$key $(, $default)?),)+
                }
            }
        }
    };
}

/// The type of an effective value: optional if the key has no default.
macro_rules! effective_type {
    ($type:ty) => { Option<$type> };
    ($type:ty, $default:expr) => { $type };
}

macro_rules! or_default {
    ($value:expr) => {
        $value
    };
    ($value:expr, $default:expr) => {
        $value.unwrap_or_else(|| $default)
    };
}

macro_rules! own_or_shared {
    ($own:expr, $shared:expr) => {
        $own.or_else(|| $shared.clone())
    };
    ($own:expr, $shared:expr, $default:expr) => {
        $own.unwrap_or($shared)
    };
}

macro_rules! in_toml {
    ($value:expr) => {
        $value.as_ref().map(to_toml).transpose()?
    };
    ($value:expr, $default:expr) => {
        Some(to_toml($value)?)
    };
}

macro_rules! scope {
    (per_model) => {
        true
    };
    (server) => {
        false
    };
}

macro_rules! first {
    ($first:expr $(, $rest:expr)*) => {
        $first
    };
}

/// The name of a key's environment variable, made when the program is compiled.
macro_rules! variable {
    ($key:ident) => {{
        const NAME: [u8; variable_length(stringify!($key))] = variable_name(stringify!($key));
        match std::str::from_utf8(&NAME) {
            Ok(name) => name,
            Err(_) => panic!("the names of keys are ASCII"),
        }
    }};
}
