//! Curves and grids as inline SVG.
//!
//! Colours come from the page's style sheet, so that one drawing serves light and dark. Curves differ in dash
//! pattern and marker too, and grids print their numbers: nothing is said by colour alone.

use super::{
    escape,
    figure::{Grid, LineChart, Point, Series},
};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
const LEGEND_LINE: f64 = 18.0;

/// Style classes that the page defines.
const STYLES: usize = 6;

/// Chooses at most about `wanted` round ticks that lie in [low, high].
fn ticks(low: f64, high: f64, wanted: f64) -> Vec<f64> {
    let raw = (high - low).max(1e-12) / wanted;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw).unwrap_or(raw);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Writes a tick without the digits of rounding errors.
fn tick_text(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Maps numbers of the chart to places of the drawing.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn of(chart: &LineChart) -> Option<Self> {
        let points = || chart.series.iter().flat_map(|s| &s.points);
        let x = range(points().map(|p| p.x))?;
        let (low, high) = range(points().flat_map(|p| [p.low, p.high]))?;
        // Shares and masses start at 0; other quantities keep a little air.
        let air = 0.05 * (high - low).max(1e-9);
        let low = if low >= 0.0 && low < 0.5 * high { 0.0 } else { low - air };
        Some(Self { x, y: (low, high + air) })
    }

    fn px(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0).max(1e-12) * (WIDTH - LEFT - RIGHT)
    }

    fn py(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0).max(1e-12) * (HEIGHT - BOTTOM - TOP)
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

/// Draws curves with their bands; nothing when there is no finite point.
pub fn line_chart(chart: &LineChart) -> String {
    let Some(frame) = Frame::of(chart) else { return String::new() };
    let height = HEIGHT + LEGEND_LINE * chart.series.len() as f64;
    let title = escape(&chart.title);
    let mut svg = format!(
        r#"<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>"#
    );
    axes(&mut svg, &frame, chart);
    for (index, series) in chart.series.iter().enumerate() {
        curve(&mut svg, &frame, series, index % STYLES + 1);
        legend(&mut svg, series, index);
    }
    svg + "</svg>"
}

fn axes(svg: &mut String, frame: &Frame, chart: &LineChart) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for y in ticks(frame.y.0, frame.y.1, 5.0) {
        let place = frame.py(y);
        let text = tick_text(y);
        *svg += &format!(
            r#"<path class="grid" d="M{LEFT} {place:.1}H{right}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
            LEFT - 6.0,
            place + 4.0,
        );
    }
    for x in ticks(frame.x.0, frame.x.1, 6.0) {
        let (place, text) = (frame.px(x), tick_text(x));
        *svg += &format!(
            r#"<path class="axis" d="M{place:.1} {bottom}v4"/><text x="{place:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
            bottom + 17.0,
        );
    }
    let (x_label, y_label) = (escape(&chart.x_label), escape(&chart.y_label));
    let (middle, half) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
    *svg += &format!(
        r#"<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/><text x="{middle:.1}" y="{:.1}" text-anchor="middle">{x_label}</text><text transform="translate(14 {half:.1}) rotate(-90)" text-anchor="middle">{y_label}</text>"#,
        bottom + 36.0,
    );
}

fn curve(svg: &mut String, frame: &Frame, series: &Series, style: usize) {
    let points: Vec<&Point> = series.points.iter().filter(|p| p.y.is_finite()).collect();
    let path = |ys: &mut dyn Iterator<Item = (f64, f64)>| {
        let places: Vec<String> = ys.map(|(x, y)| format!("{:.1} {:.1}", frame.px(x), frame.py(y))).collect();
        places.join("L")
    };
    if points.iter().any(|p| p.high > p.low) {
        let mut outline =
            points.iter().map(|p| (p.x, p.high)).chain(points.iter().rev().map(|p| (p.x, p.low)));
        *svg += &format!(r#"<path class="band s{style}" d="M{}Z"/>"#, path(&mut outline));
    }
    *svg +=
        &format!(r#"<path class="line s{style}" d="M{}"/>"#, path(&mut points.iter().map(|p| (p.x, p.y))));
    // A marker every eighth of the curve keeps crossing lines apart in black and white.
    let every = points.len().div_ceil(8).max(1);
    for point in points.iter().skip(every / 2).step_by(every) {
        *svg += &marker(frame.px(point.x), frame.py(point.y), style);
    }
}

fn marker(x: f64, y: f64, style: usize) -> String {
    let shape = match style {
        1 => format!("M{:.1} {y:.1}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0", x - 3.5),
        2 => format!("M{:.1} {:.1}h6v6h-6z", x - 3.0, y - 3.0),
        3 => format!("M{x:.1} {:.1}l4 7h-8z", y - 4.0),
        4 => format!("M{x:.1} {:.1}l4 4l-4 4l-4 -4z", y - 4.0),
        5 => format!("M{x:.1} {:.1}l-4 -7h8z", y + 4.0),
        _ => format!("M{:.1} {y:.1}h7m-3.5 -3.5v7", x - 3.5),
    };
    format!(r#"<path class="dot s{style}" d="{shape}"/>"#)
}

fn legend(svg: &mut String, series: &Series, index: usize) {
    let style = index % STYLES + 1;
    let y = HEIGHT + LEGEND_LINE * index as f64 + 6.0;
    let name = escape(&series.name);
    *svg += &format!(r#"<path class="line s{style}" d="M{LEFT} {y:.1}h34"/>"#);
    *svg += &marker(LEFT + 17.0, y, style);
    *svg += &format!(r#"<text x="{:.1}" y="{:.1}">{name}</text>"#, LEFT + 42.0, y + 4.0);
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

    fn chart(ys: &[f64]) -> LineChart {
        let points = ys.iter().enumerate();
        let points =
            points.map(|(i, y)| Point { x: i as f64, y: *y, low: *y - 0.1, high: *y + 0.1 }).collect();
        LineChart {
            title: "a < b & \"c\"".into(),
            x_label: "step".into(),
            y_label: "mass".into(),
            series: vec![Series { name: "<script>".into(), points }],
            note: String::new(),
        }
    }

    #[test]
    fn text_is_escaped() {
        let svg = line_chart(&chart(&[0.1, 0.2]));
        assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;"));
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1000.0, 5.0), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        let texts: Vec<String> = ticks(-0.31, 0.07, 4.0).into_iter().map(tick_text).collect();
        assert_eq!(texts, ["-0.3", "-0.2", "-0.1", "0"]);
    }

    #[test]
    fn points_that_are_not_finite_are_left_out() {
        let svg = line_chart(&chart(&[0.1, f64::NAN, 0.3]));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(line_chart(&chart(&[f64::NAN])), "");
        assert_eq!(line_chart(&chart(&[])), "");
    }

    #[test]
    fn a_flat_curve_is_drawn() {
        let mut flat = chart(&[0.0, 0.0]);
        flat.series.iter_mut().flat_map(|s| &mut s.points).for_each(|p| (p.low, p.high) = (0.0, 0.0));
        assert!(!line_chart(&flat).contains("NaN"));
    }

    #[test]
    fn cells_are_short() {
        assert_eq!([0.234, 1.0, -0.5, 0.004, -1.5].map(cell_text), [".23", "1.00", "-.50", "0", "-1.50"]);
    }
}
