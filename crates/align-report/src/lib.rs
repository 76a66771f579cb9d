//! Figures as inline SVG and self-contained HTML pages, for the reports of the workspace.
//!
//! A page made here needs no script, no font and no request, reads well in light and dark, on paper and on a phone,
//! and says nothing by colour alone. Nothing in this crate knows what a run or an experiment is.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod chart;
mod dots;
mod escape;
pub mod figure;
mod frame;
mod histogram;
mod page;
mod scale;
mod series;
pub mod svg;

pub use chart::{Chart, Curve, Form, Legend, chart};
pub use escape::escape;
pub use frame::swatch;
pub use histogram::{Bins, Distribution, Histogram, histogram};
pub use page::{figure_card, page, table};
pub use scale::{Axis, Scale, number};
pub use series::{mean_around, thin};
