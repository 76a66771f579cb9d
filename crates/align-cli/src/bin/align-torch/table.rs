//! Figures with their intervals, as lines of a table.

use std::fmt::Write;

use align_core::{
    evaluation::{LengthControl, PairAgreement},
    intervals::Estimate,
};

/// Lines of a figure with its interval.
#[derive(Debug, Default)]
pub struct Table {
    /// The lines.
    pub text: String,
}

impl Table {
    /// Begins a part.
    pub fn title(&mut self, title: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}{title}");
    }

    /// Adds a figure with its interval.
    pub fn line(&mut self, name: &str, figure: &Estimate, note: &str) {
        let interval = match figure.interval {
            Some((low, high)) => format!("[{}, {}]", number(low), number(high)),
            None => String::new(),
        };
        let line = format!("  {name:<28} {:>11}  {interval:<25} {note}", number(figure.mean));
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    /// Adds something that has no interval.
    pub fn plain(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.text, "  {name:<28} {value:>11}");
    }

    /// Adds how often the chosen answers are preferred, beside preferring length.
    pub fn pairs(&mut self, pairs: &PairAgreement) {
        self.line("accuracy", &pairs.accuracy, &format!("ties count half: {}", pairs.ties));
        let equal = format!("of equal length, counted half: {}", pairs.equal_lengths);
        self.line("chosen is longer", &pairs.chosen_longer, &equal);
        self.line("accuracy above length", &pairs.above_length, "paired difference of the two");
        self.lengths("accuracy", "chosen - rejected", &pairs.length_control);
    }

    /// Adds what is left of a figure where length says nothing, and the figure by length difference.
    pub fn lengths(&mut self, what: &str, sides: &str, control: &LengthControl) {
        if let Some(figure) = &control.at_equal_length {
            let slope =
                control.slope.map_or_else(String::new, |slope| format!("slope {} per token", number(slope)));
            self.line(&format!("{what} at equal length"), figure, &slope);
        }
        if control.bins.len() < 2 {
            return;
        }
        for bin in &control.bins {
            let (low, high) = bin.range;
            let name =
                if low == high { format!("  tokens {low}") } else { format!("  tokens {low} to {high}") };
            self.line(&name, &bin.score, &format!("{sides}, {} comparisons", bin.count));
        }
    }
}

/// Writes a number with about four digits that matter.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-3..1e5).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_digits_that_matter() {
        assert_eq!(number(0.5), "0.5000");
        assert_eq!(number(0.0), "0.0000");
        assert_eq!(number(-1234.5678), "-1234.5678");
        assert_eq!(number(0.0000125), "1.250e-5");
    }

    #[test]
    fn a_figure_stands_in_one_line_with_its_interval() {
        let mut table = Table::default();
        table.title("first");
        table.line("loss", &Estimate { interval: Some((0.25, 0.75)), ..Estimate::exact(0.5) }, "note");
        table.line("kl", &Estimate::exact(0.0), "");
        let lines: Vec<&str> = table.text.lines().collect();
        assert_eq!(lines[0], "first");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["loss", "0.5000", "[0.2500,", "0.7500]", "note"]
        );
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["kl", "0.0000"]);
    }
}
