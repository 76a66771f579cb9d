use crate::{Error, Result};

/// Finds the temperature T > 0 that minimises the mean of −log σ(d / T) over differences d = r(chosen) − r(rejected)
/// (1706.04599 section 4.2 for two answers). Take other rows than those that are reported.
///
/// In s = 1 / T the mean is convex, so the minimum is where its slope, the mean of d σ(−s d), crosses 0.
///
/// ```
/// use align_rm::fit_temperature;
///
/// // Three of four right by 2: σ(2 / T) = 3 / 4 at T = 2 / ln 3.
/// let temperature = fit_temperature(&[2.0, 2.0, 2.0, -2.0])?;
/// assert!((temperature - 2.0 / 3f64.ln()).abs() < 1e-9);
/// # Ok::<(), align_rm::Error>(())
/// ```
///
/// # Errors
/// [`Error::NonFinite`] names a difference that is not finite; [`Error::Input`] where no temperature is best: without a
/// pair, where no difference is below 0 (the smaller the better), or where their sum is not above 0 (the larger the
/// better).
pub fn fit_temperature(margins: &[f64]) -> Result<f64> {
    let refused = |why: String| Err(Error::input("temperature of calibration", why));
    if let Some((row, value)) = margins.iter().enumerate().find(|(_, margin)| !margin.is_finite()) {
        return Err(Error::NonFinite { what: format!("difference of pair {row}"), value: *value });
    }
    let scale = margins.iter().fold(0.0f64, |largest, margin| largest.max(margin.abs()));
    if scale == 0.0 {
        return refused(format!("{} pairs, none of which has two different scores", margins.len()));
    }
    // In units of the largest difference, so that the search needs no assumption on the scale of rewards.
    let units: Vec<f64> = margins.iter().map(|margin| margin / scale).collect();
    if units.iter().all(|d| *d >= 0.0) {
        return refused(format!(
            "the model is right on all {} pairs, so that no confidence would be too much: take more pairs",
            margins.len()
        ));
    }
    let slope = |s: f64| units.iter().map(|d| d / (1.0 + (s * d).exp())).sum::<f64>();
    if slope(0.0) <= 0.0 {
        return refused(format!(
            "over {} pairs the differences add up to nothing or less: the model is no better than chance there, and no \
             temperature helps",
            margins.len()
        ));
    }
    let (mut low, mut high) = (0.0, 1.0);
    while slope(high) > 0.0 && high < LARGEST_INVERSE {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..BISECTIONS {
        let middle = 0.5 * (low + high);
        if slope(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(scale / (0.5 * (low + high)))
}

/// Largest 1 / T in units of the largest difference: beyond it the slope has underflown to 0.
const LARGEST_INVERSE: f64 = 1e12;

/// Halvings of an interval that bring it to the last bits of float64.
const BISECTIONS: usize = 100;
