//! Tables of text.

/// Formats rows as left-aligned columns, two spaces apart. A row may have fewer cells than others.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut table = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        table.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [&["Name", "Port"][..], &["Ñandú"], &["A", "1", "x"]];
        let rows = rows.map(|row| row.iter().map(|&cell| cell.to_owned()).collect());
        assert_eq!(table(&rows), "Name   Port\nÑandú\nA      1     x\n");
        assert_eq!(table(&[]), "");
    }
}
