//! `classifyd api-key`: makes a key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};

use crate::cli::ApiKeyArgs;
use crate::config::{ApiKey, KeyHash};

/// Says to people, and to programs that look for secrets in the wrong places, what it is.
const PREFIX: &str = "cfd_";

/// 256 bits: nothing that can be guessed, so that a fast hash keeps it as well as a slow one.
const BYTES: usize = 32;

/// Prints the entry for the end of the configuration to standard output, and the key itself to standard error, so that
/// `classifyd api-key NAME >> classifyd.toml` keeps the key out of the file.
pub fn run(args: &ApiKeyArgs) -> anyhow::Result<()> {
    ApiKey::check_name(&args.name).map_err(|message| anyhow::anyhow!("NAME: {message}"))?;
    let key = generate()?;
    // In TOML a key belongs to the table above it, so one that is written after the entry is none of the server's.
    println!(
        "\n# Keys that hold for the whole server stand above this line.\n[[api_keys]]\nname = \"{}\"\nsha256 = \"{}\"",
        args.name,
        hex::encode(KeyHash::of(key.as_bytes()).0)
    );
    eprintln!(
        "The entry belongs to the end of the file that --config names: a key behind it, such as rate_limit, would be one of this \
         entry alone."
    );
    eprintln!("The key of {}, which is stored nowhere:\n{key}", args.name);
    Ok(())
}

fn generate() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_256_bits_and_is_another_each_time() {
        let random = |key: &str| URL_SAFE_NO_PAD.decode(key.strip_prefix(PREFIX).unwrap()).unwrap();
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_eq!(random(&one).len() * 8, 256);
        assert_ne!(one, other);
    }
}
