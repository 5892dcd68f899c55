//! Blocks of pages that programs write: the text between `<!-- NAME: begin -->` and
//! `<!-- NAME: end -->`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Replaces a block of a page.
pub fn write(page: &Path, block: &str, text: &str) -> Result<()> {
    let old = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let (before, _, after) = split(&old, block).with_context(|| page.display().to_string())?;
    let new = format!("{before}\n{}\n{after}", text.trim_end());
    if new == old {
        return Ok(());
    }
    fs::write(page, new).with_context(|| page.display().to_string())
}

/// The text of a block.
pub fn read<'a>(page: &'a str, block: &str) -> Result<&'a str> {
    Ok(split(page, block)?.1)
}

/// The page up to the first marker, between the markers, and from the second marker on.
fn split<'a>(page: &'a str, block: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let (begin, end) = (
        format!("<!-- {block}: begin -->"),
        format!("<!-- {block}: end -->"),
    );
    let start = page
        .find(&begin)
        .with_context(|| format!("expected a line {begin}"))?
        + begin.len();
    let length = page[start..]
        .find(&end)
        .with_context(|| format!("expected a line {end} below {begin}"))?;
    let (before, rest) = page.split_at(start);
    let (text, after) = rest.split_at(length);
    Ok((before, text, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_the_text_around_a_block() {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.md");
        fs::write(
            &page,
            "# Title\n\n<!-- x: begin -->\none\n<!-- x: end -->\n\nbelow\n",
        )
        .unwrap();
        write(&page, "x", "two\n").unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert_eq!(
            text,
            "# Title\n\n<!-- x: begin -->\ntwo\n<!-- x: end -->\n\nbelow\n"
        );
        assert_eq!(read(&text, "x").unwrap().trim(), "two");
        fs::write(&page, "no markers").unwrap();
        assert!(write(&page, "x", "three").is_err());
    }
}
