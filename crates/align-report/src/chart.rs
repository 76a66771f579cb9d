//! Curves as inline SVG.
//!
//! Colours come from the page's style sheet, so that one drawing serves light and dark. Curves differ in dash
//! pattern and mark too, and carry their names: nothing is said by colour alone.

use crate::{
    escape,
    figure::{LineChart, Point},
    frame::{Frame, HEIGHT, classes, legend, legend_height, marker},
    scale::Axis,
    series::thin,
};

/// Points of all curves of a chart together; more are thinned.
const POINTS: usize = 4800;
/// Marks of one curve; of more only some are drawn.
const MARKS: usize = 40;
/// The least distance of two names beside their curves.
const LABEL_LINE: f64 = 13.0;
/// The width of a letter, for the room that names need.
const LETTER: f64 = 6.4;

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line, with a band where points have an interval.
    Line,
    /// A thin pale line, as background of another.
    Faint,
    /// A thin line with a mark at every point.
    Marks,
}

/// A curve; a point whose y is not finite is a gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What it is called where the pointer rests on it.
    pub name: String,
    /// What stands at its end; empty for nothing.
    pub label: String,
    /// Chooses colour, dash pattern and mark; equal for curves that belong together.
    pub style: usize,
    /// How it is drawn.
    pub form: Form,
    /// Points in the order of x.
    pub points: Vec<Point>,
}

/// Where the names of curves stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Legend {
    /// At the end of each curve.
    AtEnd,
    /// Below the drawing; lines carry marks.
    Below,
}

/// Curves over one pair of axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// The abscissa, with unit.
    pub x_label: String,
    /// The ordinate, with unit.
    pub y_label: String,
    /// Whether x counts things, so that ticks are whole numbers.
    pub whole_x: bool,
    /// The ordinate to draw on, to share it between charts; that of the chart's own points without one.
    pub y: Option<Axis>,
    /// The curves, the first at the back.
    pub curves: Vec<Curve>,
    /// Where their names stand.
    pub legend: Legend,
}

impl Chart {
    /// Chooses the ordinate that the chart's points need; `None` when none is finite.
    pub fn own_y(&self) -> Option<Axis> {
        Axis::fitting(self.points().flat_map(|p| [p.y, p.low, p.high]))
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.curves.iter().flat_map(|c| &c.points)
    }
}

impl From<&LineChart> for Chart {
    fn from(chart: &LineChart) -> Self {
        let curve = |(style, series): (usize, &crate::figure::Series)| Curve {
            name: series.name.clone(),
            label: series.name.clone(),
            style,
            form: Form::Line,
            points: series.points.clone(),
        };
        Self {
            title: chart.title.clone(),
            x_label: chart.x_label.clone(),
            y_label: chart.y_label.clone(),
            whole_x: false,
            y: None,
            curves: chart.series.iter().enumerate().map(curve).collect(),
            legend: Legend::Below,
        }
    }
}

/// Draws curves; nothing when there is no finite point.
pub fn chart(chart: &Chart) -> String {
    let x = Axis::exact(chart.points().filter(|p| p.y.is_finite()).map(|p| p.x));
    let (Some(x), Some(y)) = (x, chart.y.or_else(|| chart.own_y())) else { return String::new() };
    let mut frame = Frame::new(x, y);
    let named: Vec<&Curve> = chart.curves.iter().filter(|c| !c.label.is_empty()).collect();
    let mut below = 0.0;
    match chart.legend {
        Legend::Below => below = legend_height(named.len()),
        Legend::AtEnd if !named.is_empty() => {
            let longest = named.iter().map(|c| c.label.chars().count()).max().unwrap_or(0);
            frame.beside = (longest as f64 * LETTER + 18.0).min(170.0);
            frame.height += (named.len() as f64 * LABEL_LINE - (frame.bottom() - frame.top())).max(0.0);
        }
        Legend::AtEnd => {}
    }
    let mut svg = frame.open(&chart.title, below);
    frame.axes(&mut svg, &chart.x_label, &chart.y_label, chart.whole_x);
    let buckets = (POINTS / (2 * chart.curves.len().max(1))).clamp(40, 260);
    for each in &chart.curves {
        curve(&mut svg, &frame, each, chart.legend, buckets);
    }
    match chart.legend {
        Legend::Below => {
            let lines = named.iter().enumerate();
            lines.for_each(|(index, c)| legend(&mut svg, HEIGHT, index, c.style, &c.label, true));
        }
        Legend::AtEnd => labels(&mut svg, &frame, &named),
    }
    svg + "</svg>"
}

fn curve(svg: &mut String, frame: &Frame, curve: &Curve, legend: Legend, buckets: usize) {
    let classes = classes(curve.style);
    *svg += &format!("<g><title>{}</title>", escape(&curve.name));
    let finite: Vec<&Point> = curve.points.iter().filter(|p| p.y.is_finite()).collect();
    if curve.form == Form::Line && finite.iter().any(|p| p.high > p.low) {
        let outline = finite.iter().map(|p| (p.x, p.high)).chain(finite.iter().rev().map(|p| (p.x, p.low)));
        let places: Vec<(f64, f64)> = outline.filter(|(_, y)| y.is_finite()).collect();
        *svg += &format!(r#"<path class="band {classes}" d="{}Z"/>"#, path(frame, &places));
    }
    let class = match curve.form {
        Form::Line => "line",
        Form::Faint => "faint",
        Form::Marks => "thin",
    };
    let points: Vec<(f64, f64)> = curve.points.iter().map(|p| (p.x, p.y)).collect();
    let mut lines = String::new();
    for piece in thin(&points, buckets).split(|p| !p.1.is_finite()) {
        match piece {
            [] => {}
            // A line of one point is invisible.
            [(x, y)] => *svg += &dot(frame.px(*x), frame.py(*y), curve.style),
            _ => lines += &path(frame, piece),
        }
    }
    if !lines.is_empty() {
        *svg += &format!(r#"<path class="{class} {classes}" d="{lines}"/>"#);
    }
    marks(svg, frame, curve, &finite, legend);
    *svg += "</g>";
}

/// Draws marks: at all points of a curve of marks, and here and there on lines whose names stand below, to keep
/// crossing lines apart in black and white.
fn marks(svg: &mut String, frame: &Frame, curve: &Curve, finite: &[&Point], legend: Legend) {
    if curve.form == Form::Marks {
        let every = finite.len().div_ceil(MARKS).max(1);
        // Counted from the end: the last point is the one that is read.
        for point in finite.iter().rev().step_by(every) {
            let tip =
                format!("{}, {} {}: {}", curve.name, "step", crate::number(point.x), crate::number(point.y));
            let mark = marker(frame.px(point.x), frame.py(point.y), curve.style);
            *svg += &format!("<g><title>{}</title>{mark}</g>", escape(&tip));
        }
    } else if curve.form == Form::Line && legend == Legend::Below {
        let every = finite.len().div_ceil(8).max(1);
        for point in finite.iter().skip(every / 2).step_by(every) {
            *svg += &marker(frame.px(point.x), frame.py(point.y), curve.style);
        }
    }
}

fn dot(x: f64, y: f64, style: usize) -> String {
    format!(r#"<circle class="point {}" cx="{x:.1}" cy="{y:.1}" r="2.2"/>"#, classes(style))
}

fn path(frame: &Frame, places: &[(f64, f64)]) -> String {
    let places: Vec<String> =
        places.iter().map(|(x, y)| format!("{:.1} {:.1}", frame.px(*x), frame.py(*y))).collect();
    format!("M{}", places.join("L"))
}

/// Writes the names of curves beside their ends, moved apart where they would stand on each other.
fn labels(svg: &mut String, frame: &Frame, curves: &[&Curve]) {
    let mut ends: Vec<(&Curve, f64, f64)> = Vec::new();
    for curve in curves {
        if let Some(end) = curve.points.iter().rev().find(|p| p.y.is_finite()) {
            ends.push((curve, frame.px(end.x), frame.py(end.y)));
        }
    }
    ends.sort_by(|a, b| a.2.total_cmp(&b.2));
    let wanted: Vec<f64> = ends.iter().map(|end| end.2).collect();
    let right = frame.right();
    for ((curve, x, y), place) in ends.into_iter().zip(spread(&wanted, frame.top(), frame.bottom())) {
        let classes = classes(curve.style);
        *svg += &format!(
            r#"<path class="leader {classes}" d="M{x:.1} {y:.1}L{right:.1} {y:.1}L{:.1} {place:.1}"/><text class="label {classes}" x="{:.1}" y="{:.1}">{}</text>"#,
            right + 9.0,
            right + 12.0,
            place + 4.0,
            escape(&curve.label),
        );
    }
}

/// Moves rising places apart until each is a line from the next, all of them inside [top, bottom].
fn spread(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut places: Vec<f64> = Vec::with_capacity(wanted.len());
    for place in wanted {
        let least = places.last().map_or(top, |before| before + LABEL_LINE);
        places.push(place.max(least));
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - LABEL_LINE;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(ys: &[f64]) -> Vec<Point> {
        let points = ys.iter().enumerate();
        points.map(|(i, y)| Point { x: i as f64, y: *y, low: *y, high: *y }).collect()
    }

    fn one(ys: &[f64], form: Form) -> Chart {
        Chart {
            title: "a < b & \"c\"".into(),
            x_label: "step".into(),
            y_label: "mass".into(),
            whole_x: true,
            y: None,
            curves: vec![Curve {
                name: "<script>".into(),
                label: "<b>".into(),
                style: 0,
                form,
                points: points(ys),
            }],
            legend: Legend::AtEnd,
        }
    }

    #[test]
    fn text_is_escaped() {
        for form in [Form::Line, Form::Faint, Form::Marks] {
            let svg = chart(&one(&[0.1, 0.2], form));
            assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;") && svg.contains("&lt;b&gt;"));
            assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"));
        }
    }

    #[test]
    fn values_that_are_not_finite_are_gaps() {
        let svg = chart(&one(&[0.1, 0.2, f64::NAN, 0.3, 0.1, f64::INFINITY, 0.4], Form::Line));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let lines = svg.split("class=\"line").nth(1).unwrap().split("\"/>").next().unwrap();
        assert_eq!(lines.matches('M').count(), 2, "two pieces of two points");
        assert_eq!(svg.matches("<circle").count(), 1, "the piece of one point is a dot");
        assert_eq!(chart(&one(&[f64::NAN], Form::Line)), "");
        assert_eq!(chart(&one(&[], Form::Line)), "");
    }

    #[test]
    fn single_and_equal_values_are_drawn() {
        assert!(chart(&one(&[3.0], Form::Line)).contains("<circle"));
        let flat = chart(&one(&[0.0; 5], Form::Line));
        assert!(!flat.contains("NaN") && flat.contains("class=\"line"));
    }

    #[test]
    fn long_curves_are_thinned() {
        let ys: Vec<f64> = (0..100_000).map(|i| f64::from(i).sin()).collect();
        assert!(chart(&one(&ys, Form::Faint)).len() < 12_000);
        assert!(chart(&one(&ys, Form::Marks)).len() < 24_000);
    }

    #[test]
    fn names_do_not_stand_on_each_other() {
        let places = spread(&[50.0, 50.0, 51.0, 249.0, 250.0], 10.0, 250.0);
        for pair in places.windows(2) {
            assert!(pair[1] - pair[0] >= LABEL_LINE - 1e-9, "{places:?}");
        }
        assert!(places.iter().all(|place| (10.0..=250.0).contains(place)), "{places:?}");
        // A drawing grows with the number of names that it must hold.
        let mut many = one(&[1.0, 2.0], Form::Line);
        many.curves = vec![many.curves[0].clone(); 40];
        let svg = chart(&many);
        let ys: Vec<f64> = svg
            .split("class=\"label")
            .skip(1)
            .map(|text| text.split(" y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(ys.len(), 40);
        assert!(ys.windows(2).all(|pair| pair[1] - pair[0] > 12.0), "{ys:?}");
    }
}
