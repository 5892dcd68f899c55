//! Tables for standard output.

use comfy_table::{CellAlignment, Table, presets};
use console::Style;

/// Aligns rows in columns below a header, which is bold on a terminal. The columns with the indices
/// `numbers` are right-aligned.
pub(crate) fn render<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
    numbers: &[usize],
) -> String {
    // `console` checks whether standard output is a terminal, and NO_COLOR.
    let bold = Style::new().bold();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for number in numbers {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table
        .lines()
        .enumerate()
        .map(|(at, line)| {
            let line = line.trim_end();
            if at == 0 {
                bold.apply_to(line).to_string()
            } else {
                line.to_owned()
            }
        })
        .collect();
    lines.join("\n")
}
