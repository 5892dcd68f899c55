//! Parsers of the numbers that options of the command line take.

use clap::builder::RangedU64ValueParser;

pub fn at_least_one() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=u64::from(u32::MAX))
}

pub fn positive(text: &str) -> Result<f64, String> {
    parse(text, "a number above 0", |number| number > 0.0)
}

pub fn not_negative(text: &str) -> Result<f64, String> {
    parse(text, "a number of at least 0", |number| number >= 0.0)
}

/// A part of a whole that cannot be all of it.
pub fn part(text: &str) -> Result<f64, String> {
    parse(text, "a number from 0 to below 1", |number| {
        (0.0..1.0).contains(&number)
    })
}

/// A part of a whole that is neither nothing nor all of it.
pub fn open_part(text: &str) -> Result<f64, String> {
    parse(text, "a number between 0 and 1", |number| {
        number > 0.0 && number < 1.0
    })
}

/// A part of a whole that cannot be nothing.
pub fn area(text: &str) -> Result<f64, String> {
    parse(text, "a number above 0, at most 1", |number| {
        number > 0.0 && number <= 1.0
    })
}

fn parse(text: &str, expected: &str, is_allowed: impl Fn(f64) -> bool) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && is_allowed(number) => Ok(number),
        _ => Err(format!("expected {expected}")),
    }
}
