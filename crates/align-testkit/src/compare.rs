use align_core::tch::{Kind, Tensor};

/// Asserts that two lists agree within an absolute tolerance, and prints both when they do not.
pub fn assert_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{got:?} against {expected:?}");
    for (index, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance, "entry {index}: {g} against {e}\n{got:?}\n{expected:?}");
    }
}

/// Compares the gradient of a scalar function with central differences, entry by entry.
///
/// `inputs` are float64 tensors; `f` maps leaves of the same shapes to a scalar.
pub fn gradient_check(inputs: &[Tensor], tolerance: f64, f: impl Fn(&[Tensor]) -> Tensor) {
    const STEP: f64 = 1e-5;
    let leaf = |t: &Tensor| t.detach().copy().set_requires_grad(true);
    let leaves: Vec<Tensor> = inputs.iter().map(leaf).collect();
    f(&leaves).backward();
    for (which, input) in inputs.iter().enumerate() {
        assert_eq!(input.kind(), Kind::Double, "gradient checks need float64");
        let flat = Vec::<f64>::try_from(input.reshape([-1])).unwrap();
        let gradient = leaves[which].grad();
        let gradient = if gradient.defined() { gradient } else { input.zeros_like() };
        let gradient = Vec::<f64>::try_from(gradient.reshape([-1])).unwrap();
        for entry in 0..flat.len() {
            let at = |shift: f64| {
                let mut moved = flat.clone();
                moved[entry] += shift;
                let replaced = Tensor::from_slice(&moved).reshape(input.size());
                let all: Vec<Tensor> = (inputs.iter().enumerate())
                    .map(|(i, t)| if i == which { replaced.shallow_clone() } else { t.shallow_clone() })
                    .collect();
                f(&all).double_value(&[])
            };
            let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let got = gradient[entry];
            let scale = slope.abs().max(1.0);
            assert!(
                (got - slope).abs() <= tolerance * scale,
                "input {which}[{entry}]: {got} against {slope}"
            );
        }
    }
}
