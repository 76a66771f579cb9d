//! Numbers with their intervals, one per line, as inline SVG.

use crate::{
    escape,
    figure::{Dot, Dots},
    scale::{Axis, number},
};

const WIDTH: f64 = 640.0;
const ROW: f64 = 24.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 46.0;
const RIGHT: f64 = 16.0;
/// The width of a letter, for the room that names need.
const LETTER: f64 = 9.0;
/// The most room that names get.
const NAMES: f64 = 300.0;

/// Draws numbers with their intervals; 0 is on the axis, and a number that is not finite leaves its line empty.
pub(crate) fn dots(numbers: &Dots) -> String {
    let finite = |dot: &Dot| dot.value.is_finite();
    let ends = numbers.dots.iter().filter(|dot| finite(dot)).flat_map(|dot| [dot.low, dot.value, dot.high]);
    let Some(axis) = Axis::linear(ends.filter(|end| end.is_finite()).chain([0.0])) else {
        return String::new();
    };
    if !numbers.dots.iter().any(finite) {
        return String::new();
    }
    let longest = numbers.dots.iter().map(|dot| dot.name.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * LETTER + 14.0).min(NAMES);
    let place = |value: f64| left + axis.place(value) * (WIDTH - RIGHT - left);
    let bottom = TOP + ROW * numbers.dots.len() as f64;
    let (title, height) = (escape(&numbers.title), bottom + BOTTOM);
    let mut svg = format!(
        r#"<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>"#
    );
    for (value, text) in axis.ticks(6) {
        let x = place(value);
        svg += &format!(
            r#"<path class="grid" d="M{x:.1} {TOP}V{bottom}"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
            bottom + 17.0,
        );
    }
    for (index, dot) in numbers.dots.iter().enumerate() {
        line(&mut svg, dot, left, TOP + ROW * (index as f64 + 0.5), &place);
    }
    let middle = (left + WIDTH - RIGHT) / 2.0;
    svg += &format!(
        r#"<path class="axis" d="M{left} {TOP}V{bottom}H{:.1}"/><text x="{middle:.1}" y="{:.1}" text-anchor="middle">{}</text></svg>"#,
        WIDTH - RIGHT,
        bottom + 37.0,
        escape(&numbers.x_label),
    );
    svg
}

fn line(svg: &mut String, dot: &Dot, left: f64, y: f64, place: &dyn Fn(f64) -> f64) {
    *svg += &format!(
        r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
        left - 8.0,
        y + 4.0,
        escape(&dot.name)
    );
    if !dot.value.is_finite() {
        return;
    }
    let (low, at, high) = (place(dot.low), place(dot.value), place(dot.high));
    let tip = format!("{}: {} [{}, {}]", dot.name, number(dot.value), number(dot.low), number(dot.high));
    let class = if dot.apart { "dot c6" } else { "point c1" };
    let colour = if dot.apart { "c6" } else { "c1" };
    *svg += &format!(
        r#"<g><title>{}</title><path class="line {colour}" d="M{low:.1} {y:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8"/><path class="{class}" d="M{:.1} {y:.1}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0"/></g>"#,
        escape(&tip),
        y - 4.0,
        y - 4.0,
        at - 4.5,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(name: &str, value: f64) -> Dot {
        Dot { name: name.into(), value, low: value - 0.1, high: value + 0.1, apart: name == "control" }
    }

    #[test]
    fn every_number_has_its_line_and_its_name() {
        let numbers = Dots {
            title: "t".into(),
            x_label: "share".into(),
            dots: vec![dot("<first>", 0.5), dot("control", 0.2), dot("broken", f64::NAN)],
            note: String::new(),
        };
        let svg = dots(&numbers);
        assert_eq!(svg.matches("<g>").count(), 2);
        assert!(svg.contains("&lt;first&gt;") && svg.contains("broken") && !svg.contains("NaN"), "{svg}");
        assert!(svg.contains("dot c6") && svg.contains("point c1"), "apart numbers are hollow");
        assert_eq!(dots(&Dots { dots: vec![dot("x", f64::NAN)], ..numbers }), "");
    }

    #[test]
    fn larger_numbers_stand_further_right() {
        let numbers = |dots| Dots { title: "t".into(), x_label: "x".into(), dots, note: String::new() };
        let svg = dots(&numbers(vec![dot("a", 1.0), dot("b", 2.0)]));
        let at: Vec<f64> = svg
            .split(r#"<path class="point c1" d="M"#)
            .skip(1)
            .map(|part| part.split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(at[0] < at[1], "{at:?}");
    }
}
