//! Figures as data; [`crate::svg`] draws them.

use serde::Serialize;

/// A point of a curve; `low` and `high` are its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Abscissa.
    pub x: f64,
    /// Ordinate.
    pub y: f64,
    /// Lower end of the interval; equal to `y` without one.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// A curve with its band.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points in the order of x.
    pub points: Vec<Point>,
}

/// Curves over one axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LineChart {
    /// What it shows.
    pub title: String,
    /// The abscissa, with unit.
    pub x_label: String,
    /// The ordinate, with unit.
    pub y_label: String,
    /// The curves; at most six can be told apart without colour.
    pub series: Vec<Series>,
    /// How to read it.
    pub note: String,
}

/// A square table of numbers shown by shade and figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Grid {
    /// What it shows.
    pub title: String,
    /// Numbers, row by row.
    pub values: Vec<Vec<f64>>,
    /// Cells that carry a mark.
    pub marked: Vec<Vec<bool>>,
}

/// Grids side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GridFigure {
    /// What they show.
    pub title: String,
    /// The grids.
    pub grids: Vec<Grid>,
    /// How to read them.
    pub note: String,
}

/// A number with its interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dot {
    /// What it belongs to.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Lower end of the interval; equal to `value` without one.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Whether it is set apart, as controls are: drawn hollow.
    pub apart: bool,
}

/// Numbers with their intervals, one per line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dots {
    /// What it shows.
    pub title: String,
    /// The abscissa, with unit.
    pub x_label: String,
    /// The numbers, from the top.
    pub dots: Vec<Dot>,
    /// How to read it.
    pub note: String,
}

/// A figure of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Figure {
    /// Curves.
    Lines(LineChart),
    /// Grids.
    Grids(GridFigure),
    /// Numbers with their intervals.
    Dots(Dots),
}
