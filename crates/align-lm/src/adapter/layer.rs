use std::sync::Arc;

use align_core::{
    Result,
    tch::{Kind, Tensor},
};

use super::dropout::Dropout;

/// What an adapter adds to one linear layer: x ↦ s · B A x.
#[derive(Debug)]
pub(crate) struct Adapter {
    /// A, `[r, inputs]`.
    pub(crate) down: Tensor,
    /// B, `[outputs, r]`.
    pub(crate) up: Tensor,
    /// s.
    pub(crate) scale: f64,
    /// Stands for the layer in the keys of random streams.
    pub(crate) module: u64,
    pub(crate) dropout: Option<Arc<Dropout>>,
}

impl Adapter {
    /// Adds s · B A x to `y` `[T, outputs]`, x `[T, inputs]`; computed in float32 whatever the two are stored in.
    pub(crate) fn add(&self, y: &Tensor, x: &Tensor) -> Result<Tensor> {
        let x = x.f_to_kind(Kind::Float)?;
        let (x, scale) = match self.mask(&x)? {
            None => (x, self.scale),
            Some((mask, kept)) => (x.f_mul(&mask)?, self.scale / kept),
        };
        // The scale goes to the narrowest of the three matrices.
        let inner = x.f_linear::<&Tensor>(&self.down, None)?.f_mul_scalar(scale)?;
        let sum = y.f_to_kind(Kind::Float)?.f_addmm(&inner, &self.up.f_transpose(0, 1)?)?;
        Ok(sum.f_to_kind(y.kind())?)
    }

    /// Returns which inputs are kept, `[T, inputs]`, and the share that is.
    fn mask(&self, x: &Tensor) -> Result<Option<(Tensor, f64)>> {
        let Some(dropout) = &self.dropout else { return Ok(None) };
        let mask = dropout.mask(self.module, x.size2()?)?;
        Ok(mask.map(|mask| (mask, dropout.kept())))
    }

    /// Computes s · B A, `[outputs, inputs]`, without gradient.
    pub(crate) fn product(&self) -> Result<Tensor> {
        Ok(self.up.f_detach()?.f_matmul(&self.down.f_detach()?)?.f_mul_scalar(self.scale)?)
    }
}

#[cfg(test)]
mod tests {
    use align_core::{
        PackedBatch,
        align_types::{Completion, PromptGroup},
        tch::Device,
    };

    use super::*;

    fn vec(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
    }

    /// Two inputs, rank 1, A = (1, 2), B = (3, −1)ᵀ, s = 1/2: s B A (x, y) = (x + 2 y) (3/2, −1/2).
    fn adapter(dropout: Option<Arc<Dropout>>) -> Adapter {
        let matrix = |values: [f32; 2], shape: [i64; 2]| Tensor::from_slice(&values).reshape(shape);
        Adapter {
            down: matrix([1.0, 2.0], [1, 2]),
            up: matrix([3.0, -1.0], [2, 1]),
            scale: 0.5,
            module: 9,
            dropout,
        }
    }

    #[test]
    fn what_is_added_is_scaled_and_keeps_the_kind() {
        let x = Tensor::from_slice(&[1.0f32, 0.0, 2.0, 1.0]).reshape([2, 2]);
        let y = Tensor::from_slice(&[10.0f32, 20.0, 30.0, 40.0]).reshape([2, 2]);
        let adapter = adapter(None);
        assert_eq!(vec(&adapter.add(&y, &x).unwrap()), [11.5, 19.5, 36.0, 38.0]);
        let half = adapter.add(&y.to_kind(Kind::BFloat16), &x.to_kind(Kind::BFloat16)).unwrap();
        assert_eq!((half.kind(), vec(&half)), (Kind::BFloat16, vec![11.5, 19.5, 36.0, 38.0]));
        assert_eq!(vec(&adapter.product().unwrap()), [1.5, 3.0, -0.5, -1.0]);
    }

    #[test]
    fn what_is_dropped_is_made_good_for_on_average() {
        let dropout = Arc::new(Dropout::new(0.25, 0).unwrap());
        let adapter = adapter(Some(dropout.clone()));
        let group = PromptGroup::new(vec![1], vec![Completion::new(vec![2])]);
        let batch = PackedBatch::new(&[group]).unwrap();
        let x = Tensor::from_slice(&[1.0f32, 0.5, 1.0, 0.5]).reshape([2, 2]);
        let steps = 4000;
        let mut sums = [0.0; 4];
        for step in 0..steps {
            dropout.begin_step(Some(step));
            dropout.enter(&batch, Device::Cpu);
            let added = vec(&adapter.add(&x.zeros_like(), &x).unwrap());
            sums.iter_mut().zip(added).for_each(|(sum, value)| *sum += value);
        }
        // Each of the two inputs gives 1 when all is kept; a draw of one varies by 1/3, so that the mean of the first
        // output has a standard deviation of 1.5 sqrt(2/3 / 4000) = 0.02.
        let mean = sums.map(|sum| sum / steps as f64);
        for (mean, expected) in mean.into_iter().zip([3.0, -1.0, 3.0, -1.0]) {
            assert!((mean - expected).abs() < 0.1, "{mean} against {expected}");
        }
    }
}
