//! `classifyd api-key`: makes a key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};

use crate::cli::ApiKeyArgs;
use crate::config::{ApiKey, KeyHash};

/// Tells people and secret scanners that this is a key of classifyd.
const PREFIX: &str = "cfd_";

/// 256 bits cannot be guessed, so a fast hash protects the key as well as a slow one.
const BYTES: usize = 32;

/// Prints the entry for the configuration to standard output and the key itself to standard error,
/// so that `classifyd api-key NAME >> classifyd.toml` keeps the key out of the file.
pub fn run(args: &ApiKeyArgs) -> anyhow::Result<()> {
    ApiKey::check_name(&args.name).map_err(|message| anyhow::anyhow!("NAME: {message}"))?;
    let key = generate()?;
    // In TOML a key belongs to the table above it, so keys of the server must come before the
    // entry.
    println!(
        "\n# Keys for the whole server belong above this line.\n[[api_keys]]\nname = \"{}\"\nsha256 = \"{}\"",
        args.name,
        hex::encode(KeyHash::of(key.as_bytes()).0)
    );
    eprintln!(
        "Append the entry to the end of the file that --config names. A key below it, such as rate_limit, would \
         belong to the entry."
    );
    eprintln!("The key of {} (it is not stored anywhere):\n{key}", args.name);
    Ok(())
}

fn generate() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system provides no random numbers"))?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_256_bits_and_is_different_each_time() {
        let random = |key: &str| URL_SAFE_NO_PAD.decode(key.strip_prefix(PREFIX).unwrap()).unwrap();
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_eq!(random(&one).len() * 8, 256);
        assert_ne!(one, other);
    }
}
