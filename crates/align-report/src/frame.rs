//! The rectangle in which curves and bars are drawn, its axes, and what stands beside it.

use crate::{escape, scale::Axis};

pub(crate) const WIDTH: f64 = 520.0;
pub(crate) const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
const LEGEND_LINE: f64 = 18.0;

/// Colours and dash patterns of the style sheet; the two numbers have no common divisor, so that forty curves differ.
const COLOURS: usize = 8;
const DASHES: usize = 5;

/// The style classes of the curve of this number, from 0.
pub(crate) fn classes(style: usize) -> String {
    format!("c{} d{}", style % COLOURS + 1, style % DASHES + 1)
}

/// Maps numbers to places of the drawing, x to the right and y upwards.
pub(crate) struct Frame {
    pub x: Axis,
    pub y: Axis,
    /// Height of the drawing without what stands below it.
    pub height: f64,
    /// Room to the right of the axes.
    pub beside: f64,
}

impl Frame {
    pub fn new(x: Axis, y: Axis) -> Self {
        Self { x, y, height: HEIGHT, beside: RIGHT }
    }

    pub fn right(&self) -> f64 {
        WIDTH - self.beside
    }

    pub fn top(&self) -> f64 {
        TOP
    }

    pub fn bottom(&self) -> f64 {
        self.height - BOTTOM
    }

    pub fn px(&self, x: f64) -> f64 {
        LEFT + self.x.place(x) * (self.right() - LEFT)
    }

    pub fn py(&self, y: f64) -> f64 {
        self.bottom() - self.y.place(y) * (self.bottom() - TOP)
    }

    /// Opens the drawing; `below` is the height of what stands below it.
    pub fn open(&self, title: &str, below: f64) -> String {
        let (title, height) = (escape(title), self.height + below);
        format!(
            r#"<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>"#
        )
    }

    /// Draws both axes with ticks and names.
    pub fn axes(&self, svg: &mut String, x_label: &str, y_label: &str, whole_x: bool) {
        let (bottom, right) = (self.bottom(), self.right());
        for (value, text) in self.y.ticks(5) {
            let place = self.py(value);
            *svg += &format!(
                r#"<path class="grid" d="M{LEFT} {place:.1}H{right}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
                LEFT - 6.0,
                place + 4.0,
            );
        }
        let ticks = if whole_x { self.x.whole_ticks(6) } else { self.x.ticks(6) };
        for (value, text) in ticks {
            let place = self.px(value);
            *svg += &format!(
                r#"<path class="axis" d="M{place:.1} {bottom}v4"/><text x="{place:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
                bottom + 17.0,
            );
        }
        let (middle, half) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        *svg += &format!(
            r#"<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/><text x="{middle:.1}" y="{:.1}" text-anchor="middle">{}</text><text transform="translate(11 {half:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
            bottom + 36.0,
            escape(x_label),
            escape(y_label),
        );
    }
}

/// Draws names below the drawing, one line each, with a sample of their line.
pub(crate) fn legend(svg: &mut String, height: f64, index: usize, style: usize, name: &str, mark: bool) {
    let y = height + LEGEND_LINE * index as f64 + 6.0;
    *svg += &format!(r#"<path class="line {}" d="M{LEFT} {y:.1}h34"/>"#, classes(style));
    if mark {
        *svg += &marker(LEFT + 17.0, y, style);
    }
    *svg += &format!(r#"<text x="{:.1}" y="{:.1}">{}</text>"#, LEFT + 42.0, y + 4.0, escape(name));
}

/// The height of a legend of so many names.
pub(crate) fn legend_height(names: usize) -> f64 {
    LEGEND_LINE * names as f64
}

/// Draws the mark of a style: six shapes.
pub(crate) fn marker(x: f64, y: f64, style: usize) -> String {
    let shape = match style % 6 {
        0 => format!("M{:.1} {y:.1}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0", x - 3.5),
        1 => format!("M{:.1} {:.1}h6v6h-6z", x - 3.0, y - 3.0),
        2 => format!("M{x:.1} {:.1}l4 7h-8z", y - 4.0),
        3 => format!("M{x:.1} {:.1}l4 4l-4 4l-4 -4z", y - 4.0),
        4 => format!("M{x:.1} {:.1}l-4 -7h8z", y + 4.0),
        _ => format!("M{:.1} {y:.1}h7m-3.5 -3.5v7", x - 3.5),
    };
    format!(r#"<path class="dot c{}" d="{shape}"/>"#, style % COLOURS + 1)
}

/// Draws a sample of a style's line, for tables that name curves.
pub fn swatch(style: usize) -> String {
    let classes = classes(style);
    format!(
        r#"<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true"><path class="line {classes}" d="M1 6h32"/>{}</svg>"#,
        marker(17.0, 6.0, style)
    )
}
