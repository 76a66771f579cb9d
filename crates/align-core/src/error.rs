use tch::{TchError, Tensor};

/// What can go wrong on the tensor side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has another shape than the operation means.
    #[error("{what} has shape {got:?}, expected {expected:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// The shape that is meant.
        expected: Vec<i64>,
        /// The shape that came.
        got: Vec<i64>,
    },
    /// Inputs contradict each other or are outside what the operation can do.
    #[error("{what}: {why}")]
    Input {
        /// Which input, with the row where there is one.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A number that must be finite is not.
    #[error("{what} is not finite ({value})")]
    NonFinite {
        /// Which number, with the rows it came from.
        what: String,
        /// The value.
        value: f64,
    },
    /// Plain data is wrong.
    #[error(transparent)]
    Data(#[from] align_types::Error),
    /// A compute thread could not be started or ended in a panic.
    #[error("compute thread: {why}")]
    Thread {
        /// What happened.
        why: String,
    },
    /// libtorch refused an operation.
    #[error("libtorch: {message}")]
    Torch {
        /// The first line of what libtorch said.
        message: String,
        /// All of it, C++ trace included.
        #[source]
        source: Box<TchError>,
    },
}

/// The result of tensor operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        // A C++ exception comes with a trace of dozens of lines; the first one says what happened.
        let text = error.to_string();
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown error");
        let message = first.split("Exception raised from").next().unwrap_or(first).trim().to_owned();
        Self::Torch { message, source: Box::new(error) }
    }
}

impl Error {
    /// Makes an [`Error::Input`].
    pub fn input(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Input { what: what.into(), why: why.into() }
    }
}

/// Checks the shape of a tensor; −1 in `expected` stands for any size.
///
/// # Errors
/// [`Error::Shape`] with both shapes.
pub fn expect_shape(what: &'static str, tensor: &Tensor, expected: &[i64]) -> Result<()> {
    let got = tensor.size();
    let fits = got.len() == expected.len() && got.iter().zip(expected).all(|(g, e)| *e == -1 || g == e);
    if fits { Ok(()) } else { Err(Error::Shape { what, expected: expected.to_vec(), got }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_portable<T: Send + Sync + 'static>() {}

    #[test]
    fn errors_cross_threads() {
        is_portable::<Error>();
    }

    #[test]
    fn the_message_of_libtorch_is_one_line() {
        let a = Tensor::from_slice(&[1.0f32, 2.0]);
        let b = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
        let error = Error::from(a.f_add(&b).unwrap_err());
        assert_eq!(error.to_string().lines().count(), 1);
        assert!(error.to_string().contains("size of tensor"), "{error}");
    }

    #[test]
    fn shapes_are_compared_with_wildcards() {
        let t = Tensor::from_slice(&[1.0f32, 2.0]);
        expect_shape("t", &t, &[-1]).unwrap();
        let error = expect_shape("t", &t, &[2, 1]).unwrap_err().to_string();
        assert_eq!(error, "t has shape [2], expected [2, 1]");
    }
}
