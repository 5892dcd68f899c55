//! Prints results for people and programs.

use std::io::Write;

use console::{Alignment, Style, measure_text_width, pad_str, truncate_str};
use serde::Serialize;

use super::inputs::NamedInput;
use super::{InputResult, LabelScore};

/// Widest column of inputs on a terminal.
const WIDEST_NAME: usize = 44;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// Columns with a tab between them, for other programs.
    Tabs,
    /// Columns of equal width, for people.
    Columns {
        /// Width of the names of inputs.
        name: usize,
        /// Width of a label.
        label: usize,
    },
}

impl Format {
    /// Columns on a terminal, tabs elsewhere, unless `json` is set.
    pub fn choose(json: bool, terminal: bool, inputs: &[NamedInput], labels: &[String]) -> Self {
        if json {
            return Self::Json;
        }
        if !terminal {
            return Self::Tabs;
        }
        let widest = |widths: &mut dyn Iterator<Item = usize>| widths.max().unwrap_or(0);
        let readable = inputs.iter().filter(|input| input.source.is_ok());
        Self::Columns {
            name: widest(&mut readable.map(|input| measure_text_width(&one_line(&input.name))))
                .min(WIDEST_NAME),
            label: widest(&mut labels.iter().map(|label| measure_text_width(label))),
        }
    }
}

/// Writes one line for each input.
pub struct Printer<W> {
    output: W,
    format: Format,
    best: Style,
    rest: Style,
    wrong: Style,
}

#[derive(Serialize)]
struct Line<'a> {
    input: &'a str,
    label: &'a str,
    score: f32,
    top: &'a [LabelScore],
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
}

#[derive(Serialize)]
struct Failure<'a> {
    input: &'a str,
    error: &'a str,
}

impl<W: Write> Printer<W> {
    /// `console` leaves colours out unless standard output is a terminal, and if `NO_COLOR` is set.
    pub fn new(output: W, format: Format) -> Self {
        Self {
            output,
            format,
            best: Style::new().green().bold(),
            rest: Style::new().dim(),
            wrong: Style::new().red(),
        }
    }

    /// `expected` is the label that the input should have, if that is known.
    pub fn print(&mut self, name: &str, result: &InputResult, expected: Option<&str>) -> anyhow::Result<()> {
        let line = match self.format {
            Format::Json => serde_json::to_string(&Line {
                input: name,
                label: &result.label,
                score: result.score,
                top: &result.top,
                truncated: result.truncated,
                expected,
            })?,
            Format::Tabs => tabs(name, result, expected),
            Format::Columns { name: width, label } => self.columns(name, width, label, result, expected),
        };
        self.write(&line)
    }

    /// Writes a line for an input that failed, if the format is JSON: a program finds a line for
    /// each input. For people, the error is on standard error.
    pub fn print_failure(&mut self, name: &str, reason: &str) -> anyhow::Result<()> {
        if self.format != Format::Json {
            return Ok(());
        }
        let failure = Failure {
            input: name,
            error: reason,
        };
        let line = serde_json::to_string(&failure)?;
        self.write(&line)
    }

    fn write(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.output, "{line}")?;
        self.output.flush()?;
        Ok(())
    }

    fn columns(
        &self,
        name: &str,
        width: usize,
        label: usize,
        result: &InputResult,
        expected: Option<&str>,
    ) -> String {
        let name = shortened(&one_line(name), width);
        let mut line = pad_str(&name, width, Alignment::Left, None).into_owned();
        for (at, scored) in result.top.iter().enumerate() {
            let style = if at == 0 { &self.best } else { &self.rest };
            let text = format!(
                "{} {:.4}",
                pad_str(&scored.label, label, Alignment::Left, None),
                scored.score
            );
            line.push_str("  ");
            line.push_str(&style.apply_to(text).to_string());
        }
        if result.truncated {
            line.push_str("  truncated");
        }
        if let Some(expected) = expected.filter(|expected| *expected != result.label) {
            line.push_str("  ");
            line.push_str(&self.wrong.apply_to(format!("expected {expected}")).to_string());
        }
        line
    }
}

fn tabs(name: &str, result: &InputResult, expected: Option<&str>) -> String {
    let mut columns = vec![one_line(name)];
    columns.extend(
        result
            .top
            .iter()
            .map(|scored| format!("{} {:.4}", scored.label, scored.score)),
    );
    if result.truncated {
        columns.push("truncated".to_owned());
    }
    if let Some(expected) = expected.filter(|expected| *expected != result.label) {
        columns.push(format!("expected {expected}"));
    }
    columns.join("\t")
}

/// Line breaks of a text must not break the table.
fn one_line(name: &str) -> String {
    name.replace(char::is_control, " ")
}

/// Keeps the end of a long path, which tells files apart, and the beginning of a long text.
fn shortened(name: &str, width: usize) -> String {
    let surplus = measure_text_width(name).saturating_sub(width);
    if surplus == 0 {
        return name.to_owned();
    }
    if !name.contains('/') || name.contains(' ') {
        return truncate_str(name, width, "…").into_owned();
    }
    let mut left_out = 0;
    let end = name.char_indices().find(|(_, letter)| {
        // One more column for the ellipsis.
        let found = left_out > surplus;
        left_out += measure_text_width(letter.encode_utf8(&mut [0; 4]));
        found
    });
    format!("…{}", end.map_or("", |(at, _)| &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::super::inputs::Source;
    use super::*;

    fn result(labels: &[(&str, f32)]) -> InputResult {
        let top: Vec<LabelScore> = labels
            .iter()
            .map(|(label, score)| LabelScore {
                label: (*label).to_owned(),
                score: *score,
            })
            .collect();
        InputResult {
            label: top[0].label.clone(),
            score: top[0].score,
            top,
            truncated: false,
        }
    }

    fn printed(format: Format, lines: &[(&str, InputResult, Option<&str>)]) -> String {
        let mut bytes = Vec::new();
        let mut printer = Printer::new(&mut bytes, format);
        for (name, result, expected) in lines {
            printer.print(name, result, *expected).unwrap();
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_terminal_gets_columns_and_a_pipe_gets_tabs() {
        let inputs: Vec<NamedInput> = ["a.png", "photos/b.png"]
            .map(|name| NamedInput {
                name: name.to_owned(),
                source: Ok(Source::File(name.into())),
            })
            .to_vec();
        let labels = ["cat".to_owned(), "horse".to_owned()];
        let lines = [
            ("a.png", result(&[("cat", 0.9), ("horse", 0.1)]), Some("cat")),
            (
                "photos/b.png",
                result(&[("horse", 0.75), ("cat", 0.25)]),
                Some("cat"),
            ),
        ];
        let format = Format::choose(false, true, &inputs, &labels);
        assert_eq!(
            console::strip_ansi_codes(&printed(format, &lines)),
            "a.png         cat   0.9000  horse 0.1000\n\
             photos/b.png  horse 0.7500  cat   0.2500  expected cat\n"
        );
        let format = Format::choose(false, false, &inputs, &labels);
        assert_eq!(
            printed(format, &lines),
            "a.png\tcat 0.9000\thorse 0.1000\nphotos/b.png\thorse 0.7500\tcat 0.2500\texpected cat\n"
        );
    }

    #[test]
    fn json_has_unrounded_scores() {
        let line = printed(Format::Json, &[("line\nbreak", result(&[("a", 0.1)]), None)]);
        assert_eq!(
            line,
            "{\"input\":\"line\\nbreak\",\"label\":\"a\",\"score\":0.1,\"top\":[{\"label\":\"a\",\"score\":0.1}],\"truncated\":false}\n"
        );
        assert!(
            printed(Format::Json, &[("x", result(&[("a", 0.1)]), Some("b"))]).contains("\"expected\":\"b\"")
        );
    }

    #[test]
    fn long_names_keep_the_part_that_tells_them_apart() {
        assert_eq!(shortened("models/digits/7_0.png", 12), "…its/7_0.png");
        assert_eq!(shortened("a wonderful film, I was moved", 12), "a wonderful…");
        assert_eq!(shortened("short.png", 12), "short.png");
        assert_eq!(one_line("two\nlines\tand"), "two lines and");
    }
}
