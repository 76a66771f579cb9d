//! cargo run --release -p align-cli --example last_metrics -- RUN
//!
//! Prints the last values of a run's `metrics.jsonl`, each with its definition:
//!
//! ```text
//! rewards/margins               0.6445  mean of rewards/chosen − rewards/rejected of each pair
//! ```
//!
//! Without a run folder it reads two lines that stand below.

use std::error::Error;

use align_cli::metrics;
use serde_json::{Map, Value};

const LINES: &str = r#"{"step":1,"loss":0.693147,"grad_norm":1.8755,"rewards/margins":0.0}
{"step":3,"loss":0.425450,"grad_norm":1.2297,"rewards/margins":0.6445,"eval/rewards/margins":0.7702}
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let text = match std::env::args().nth(1) {
        Some(run) => std::fs::read_to_string(std::path::Path::new(&run).join("metrics.jsonl"))?,
        None => LINES.to_owned(),
    };
    let last = text.lines().last().ok_or("no step was logged yet")?;
    let values: Map<String, Value> = serde_json::from_str(last)?;
    for (name, value) in &values {
        let metric = metrics::all().find(|metric| metric.name == name.trim_start_matches("eval/"));
        let formula = metric.map_or("not defined", |metric| metric.formula);
        println!("{name:<28}{:>8.4}  {formula}", value.as_f64().unwrap_or(f64::NAN));
    }
    Ok(())
}
