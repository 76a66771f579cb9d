//! Draws two curves with their bands on a page of their own.
//!
//! ```text
//! cargo run --release -p align-report --example curves > curves.html
//! ```
//! writes the page to stdout; open the file in a browser.

use align_report::{
    escape,
    figure::{LineChart, Point, Series},
    page, svg,
};

fn main() {
    let curve = |name: &str, rate: f64| Series {
        name: name.to_owned(),
        points: (0..100)
            .map(|step| {
                let x = f64::from(step);
                let (y, half) = ((-x * rate).exp(), 0.05 + 0.001 * x);
                Point { x, y, low: y - half, high: y + half }
            })
            .collect(),
    };
    let chart = LineChart {
        title: "Loss & its band".to_owned(),
        x_label: "step".to_owned(),
        y_label: "nats".to_owned(),
        series: vec![curve("rate 0.05", 0.05), curve("rate 0.02", 0.02)],
        note: String::new(),
    };
    let body = format!("<h1>{}</h1>\n{}\n", escape(&chart.title), svg::line_chart(&chart));
    print!("{}", page("Two curves", "", &body));
}
