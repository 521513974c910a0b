//! Columns that line up.

use std::fmt::Write as _;

/// Writes rows with their columns lined up, two spaces apart. The first row is the heading.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:<width$}  ").unwrap_or_default();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Writes a row of words that do not change.
pub(crate) fn heading<const N: usize>(words: [&str; N]) -> [String; N] {
    words.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_where_their_words_do() {
        let rows = [
            heading(["NODE", "STATE"]),
            heading(["alpha", "seen"]),
            heading(["b", ""]),
        ];
        assert_eq!(table(&rows), "NODE   STATE\nalpha  seen\nb\n");
    }
}
