//! Figures of reports as inline SVG.

use crate::{
    chart::{Chart, chart},
    escape,
    figure::{Dots, Grid, LineChart},
};

/// Draws curves with their bands and the names below; nothing when there is no finite point.
pub fn line_chart(lines: &LineChart) -> String {
    chart(&Chart::from(lines))
}

/// Draws numbers with their intervals, one per line; nothing when there is no finite number.
pub fn dots(numbers: &Dots) -> String {
    crate::dots::dots(numbers)
}

/// Makes a drawing of this module a file that stands alone, with the colours of the page in light and dark.
pub fn standalone(drawing: &str) -> String {
    let style = format!("<style>{}</style>", crate::page::STYLE);
    match drawing.split_once('>') {
        Some((head, rest)) => format!("{head} xmlns=\"http://www.w3.org/2000/svg\">{style}{rest}\n"),
        None => String::new(),
    }
}

const CELL: f64 = 34.0;

/// Draws a grid: the shade follows |value| / largest |value|, the number stands in the cell, marked cells have a
/// thick border.
pub fn grid(grid: &Grid) -> String {
    let rows = grid.values.len() as f64;
    let columns = grid.values.iter().map(Vec::len).max().unwrap_or(0) as f64;
    let largest = grid.values.iter().flatten().fold(1e-12f64, |m, v| m.max(v.abs()));
    let (width, height) = (columns * CELL + 4.0, rows * CELL + 4.0);
    let title = escape(&grid.title);
    let mut svg = format!(
        r#"<svg class="cells" viewBox="-2 -2 {width} {height}" role="img" aria-label="{title}"><title>{title}</title>"#
    );
    for (i, row) in grid.values.iter().enumerate() {
        for (j, value) in row.iter().enumerate() {
            let (x, y) = (j as f64 * CELL, i as f64 * CELL);
            let share = (value / largest).clamp(-1.0, 1.0);
            let sign = if share < 0.0 { "minus" } else { "plus" };
            let strong = if share.abs() > 0.55 { " strong" } else { "" };
            svg += &format!(
                r#"<rect class="{sign}" x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill-opacity="{:.3}"/><text class="cell{strong}" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                share.abs(),
                x + CELL / 2.0,
                y + CELL / 2.0 + 4.0,
                cell_text(*value),
            );
        }
    }
    for (i, row) in grid.marked.iter().enumerate() {
        for (j, _) in row.iter().enumerate().filter(|(_, marked)| **marked) {
            let (x, y, side) = (j as f64 * CELL + 1.5, i as f64 * CELL + 1.5, CELL - 3.0);
            svg += &format!(r#"<rect class="mark" x="{x}" y="{y}" width="{side}" height="{side}"/>"#);
        }
    }
    svg + "</svg>"
}

/// Writes a number into a cell: two digits, without the leading zero.
fn cell_text(value: f64) -> String {
    let text = format!("{value:.2}");
    match text.as_str() {
        "0.00" | "-0.00" => "0".to_owned(),
        _ => text.replacen("0.", ".", usize::from(value.abs() < 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_short() {
        assert_eq!([0.234, 1.0, -0.5, 0.004, -1.5].map(cell_text), [".23", "1.00", "-.50", "0", "-1.50"]);
    }

    #[test]
    fn a_drawing_stands_alone() {
        let one = Grid { title: "t".into(), values: vec![vec![1.0]], marked: vec![] };
        let file = standalone(&grid(&one));
        assert!(file.starts_with("<svg class=\"cells\"") && file.trim_end().ends_with("</svg>"), "{file}");
        assert!(file.contains("xmlns=") && file.contains("prefers-color-scheme"));
        assert_eq!(standalone(""), "");
    }

    #[test]
    fn grids_escape_their_title() {
        let one = Grid {
            title: "<script>".into(),
            values: vec![vec![1.0, -0.5], vec![]],
            marked: vec![vec![true]],
        };
        let svg = grid(&one);
        assert!(!svg.contains("<script>") && svg.matches("<rect").count() == 3, "{svg}");
    }
}
