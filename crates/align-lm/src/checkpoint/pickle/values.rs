use align_core::tch::Kind;

/// A value of the machine; compound ones are indices into its lists.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    None,
    /// Which of the two never matters.
    Bool,
    Int(i64),
    Text(usize),
    Global(Global),
    Tuple(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// The names of Python that files of tensors use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    Tensor,
    Parameter,
    Storage(Numbers),
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::Tensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::Parameter),
            ("torch", name) => Numbers::find(name).map(Self::Storage),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OrderedDict => "collections.OrderedDict",
            Self::Tensor => "torch._utils._rebuild_tensor_v2",
            Self::Parameter => "torch._utils._rebuild_parameter",
            Self::Storage(numbers) => numbers.storage,
        }
    }
}

/// The type of the numbers of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Numbers {
    storage: &'static str,
    /// Its name in torch.
    pub(in super::super) name: &'static str,
    /// Bytes of one number.
    pub(in super::super) width: u64,
    /// The type that a model can read; none for masks, positions and counters.
    pub(in super::super) kind: Option<Kind>,
}

const fn numbers(storage: &'static str, name: &'static str, width: u64, kind: Option<Kind>) -> Numbers {
    Numbers { storage, name, width, kind }
}

const NUMBERS: [Numbers; 10] = [
    numbers("FloatStorage", "float32", 4, Some(Kind::Float)),
    numbers("HalfStorage", "float16", 2, Some(Kind::Half)),
    numbers("BFloat16Storage", "bfloat16", 2, Some(Kind::BFloat16)),
    numbers("DoubleStorage", "float64", 8, None),
    numbers("LongStorage", "int64", 8, None),
    numbers("IntStorage", "int32", 4, None),
    numbers("ShortStorage", "int16", 2, None),
    numbers("CharStorage", "int8", 1, None),
    numbers("ByteStorage", "uint8", 1, None),
    numbers("BoolStorage", "bool", 1, None),
];

impl Numbers {
    fn find(storage: &str) -> Option<Self> {
        NUMBERS.into_iter().find(|numbers| numbers.storage == storage)
    }
}

/// A block of numbers in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct StorageRef {
    pub(in super::super) numbers: Numbers,
    /// The name of its entry below `data/`.
    pub(in super::super) key: String,
    pub(in super::super) count: u64,
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct TensorRecord {
    pub(in super::super) storage: StorageRef,
    /// Its first number.
    pub(in super::super) offset: u64,
    pub(in super::super) sizes: Vec<u64>,
    /// How many numbers further the next along each dimension lies.
    pub(in super::super) strides: Vec<u64>,
}

impl TensorRecord {
    /// Refuses a view that reaches beyond its storage, or makes more numbers of it than it holds.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { storage, offset, sizes, strides } = self;
        let held = storage.count;
        let count = sizes.iter().try_fold(1u64, |count, size| count.checked_mul(*size));
        let last = sizes.iter().zip(strides).try_fold(*offset, |last, (size, stride)| {
            size.saturating_sub(1).checked_mul(*stride)?.checked_add(last)
        });
        let described = format!("a tensor of sizes {sizes:?} and strides {strides:?} at offset {offset}");
        match (count, last) {
            (Some(0), _) => Ok(()),
            (Some(count), Some(last)) if last < held && count <= held => Ok(()),
            (Some(_), Some(last)) if last < held => {
                Err(format!("{described} repeats the {held} numbers of its storage"))
            }
            _ => Err(format!("{described} reaches beyond the {held} numbers of its storage")),
        }
    }
}
