/// Count, mean and spread of numbers that come one by one (Welford, Technometrics 1962).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Moments {
    count: f64,
    mean: f64,
    /// Sum of the squared distances from the mean.
    squares: f64,
}

impl Moments {
    /// How many numbers hold it.
    pub const NUMBERS: usize = 3;

    /// Reads what [`Self::write`] wrote; anything else is none.
    pub fn read(numbers: &[f64]) -> Self {
        match numbers {
            [count, mean, squares] => Self { count: *count, mean: *mean, squares: *squares },
            _ => Self::default(),
        }
    }

    pub fn write(&self) -> [f64; Self::NUMBERS] {
        [self.count, self.mean, self.squares]
    }

    pub fn add(&mut self, value: f64) {
        self.count += 1.0;
        let distance = value - self.mean;
        self.mean += distance / self.count;
        self.squares += distance * (value - self.mean);
    }

    pub fn count(&self) -> f64 {
        self.count
    }

    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The square of the standard error of the mean; infinite where one number says nothing of the spread.
    pub fn squared_error(&self) -> f64 {
        if self.count < 2.0 { f64::INFINITY } else { self.squares / (self.count - 1.0) / self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2, 4, 4, 4, 5, 5, 7, 9: mean 5, sum of squared distances 32, so a variance of 32/7 and 32/7/8 of the mean.
    #[test]
    fn mean_and_error_are_those_of_the_definition() {
        let mut moments = Moments::default();
        for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            moments.add(value);
            assert_eq!(Moments::read(&moments.write()), moments);
        }
        assert_eq!((moments.count(), moments.mean()), (8.0, 5.0));
        assert!((moments.squared_error() - 4.0 / 7.0).abs() < 1e-12);
        assert_eq!(Moments::read(&[1.0]), Moments::default());
        assert_eq!(Moments::default().squared_error(), f64::INFINITY);
    }
}
