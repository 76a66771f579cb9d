//! Library code calls the fallible form of every tensor operation: `f_add`, not `+`; `f_matmul`, not `matmul`.
//!
//! In `tch` the other form panics when libtorch throws. Text cannot tell the type of a receiver, so this knows the
//! operations that are common and whose names nothing else has.

use crate::source::{Source, is_word, words};
use crate::{expect_none, workspace};
use xtask::Package;

const CALL: &str = "tensor-call";
const OPERATOR: &str = "tensor-operator";

#[rustfmt::skip]
const METHODS: &[&str] = &[
    "argmax", "argmin", "argsort", "backward", "bernoulli", "bmm", "clamp_max", "clamp_min", "clip_grad_norm",
    "clip_grad_value", "contiguous", "copy_", "copy_data", "cross_entropy_loss", "cumsum", "detach", "detach_",
    "double_value", "embedding", "eq_tensor", "expand", "expand_as", "exponential_", "fill_", "g_add", "g_div",
    "g_mul", "g_sub", "gather", "ge_tensor", "gelu", "gt_tensor", "index_add", "index_add_", "index_copy",
    "index_copy_", "index_fill", "index_put", "index_put_", "index_select", "int64_value", "isfinite", "isinf",
    "isnan", "layer_norm", "le_tensor", "log_sigmoid", "log_softmax", "logaddexp", "logical_and", "logical_not",
    "logical_or", "logsumexp", "lt_tensor", "masked_fill", "masked_fill_", "masked_select", "matmul", "mean_dim",
    "mm", "multinomial", "narrow", "ne_tensor", "nll_loss", "ones_like", "permute", "pow_tensor_scalar", "randn_like",
    "repeat_interleave", "requires_grad_", "reshape", "rms_norm", "rsqrt", "run_backward",
    "scaled_dot_product_attention", "scatter", "scatter_", "scatter_add", "scatter_add_", "set_requires_grad",
    "sigmoid", "silu", "softmax", "softplus", "squeeze", "squeeze_dim", "std_dim", "sum_dim_intlist", "to_device",
    "to_kind", "topk", "transpose", "transpose_", "tril", "triu", "uniform_", "unsqueeze", "unsqueeze_", "var_dim",
    "view", "view_as", "where_self", "zero_", "zero_grad", "zeros_like",
];

/// Functions of `Tensor`, and of `tch` itself, that panic or change a hidden global state.
const FUNCTIONS: &[&str] = &[
    "Tensor::arange",
    "Tensor::arange_start",
    "Tensor::cat",
    "Tensor::einsum",
    "Tensor::embedding",
    "Tensor::eye",
    "Tensor::from",
    "Tensor::from_slice",
    "Tensor::from_slice2",
    "Tensor::from_data_size",
    "Tensor::full",
    "Tensor::linspace",
    "Tensor::ones",
    "Tensor::rand",
    "Tensor::randint",
    "Tensor::randn",
    "Tensor::randperm",
    "Tensor::scalar_tensor",
    "Tensor::stack",
    "Tensor::zeros",
    "tch::manual_seed",
    "tch::no_grad",
    "tch::with_grad",
];

#[test]
fn library_code_calls_fallible_tensor_operations_only() {
    let (_, metadata) = workspace();
    let mut problems = Vec::new();
    for package in metadata.packages.iter().filter(|p| p.name != "align-testkit" && sees_tensors(p)) {
        for source in Source::of_crate(&package.dir) {
            find(&source, &mut problems);
        }
    }
    expect_none(&problems);
}

fn sees_tensors(package: &Package) -> bool {
    package.dependencies.iter().any(|d| ["tch", "align-core"].contains(&d.name.as_str()))
}

fn find(source: &Source, problems: &mut Vec<String>) {
    let code = &source.code;
    for name in METHODS {
        for at in words(code, name) {
            let open = at + name.len();
            let method = code[..at].trim_end().ends_with('.') && code[open..].starts_with('(');
            if method && !source.is_fallible(open) {
                source.report(problems, at, CALL, &format!(".{name}() panics, use .f_{name}()"));
            }
        }
    }
    for name in FUNCTIONS {
        for at in words(code, name) {
            let open = at + name.len();
            if code[open..].starts_with('(') && !source.is_fallible(open) {
                source.report(problems, at, CALL, &format!("{name}() panics or hides state"));
            }
        }
    }
    if words(code, "Tensor").next().is_some() {
        operators(source, problems);
    }
}

/// Finds arithmetic with a borrowed operand, which numbers rarely have and tensors nearly always.
fn operators(source: &Source, problems: &mut Vec<String>) {
    let code = source.code.as_bytes();
    for (at, _) in source.code.match_indices(" &") {
        // rustfmt puts one space on each side of an operator.
        let Some(&operator) = at.checked_sub(1).and_then(|i| code.get(i)) else { continue };
        let spaced = at >= 2 && matches!(code[at - 2], b' ' | b'\n');
        let assigning = operator == b'=' && at >= 2 && b"+-*/".contains(&code[at - 2]);
        let operand = code.get(at + 2).is_some_and(|&b| is_word(b) || b == b'(');
        if operand && ((b"+-*/".contains(&operator) && spaced) || assigning) {
            source.report(problems, at, OPERATOR, "an operator on tensors panics, use .f_add() and the like");
        }
    }
    // A borrowed left operand: `&a - b`.
    for (at, _) in source.code.match_indices('&') {
        let starts_operand = at.checked_sub(1).is_none_or(|i| matches!(code[i], b' ' | b'(' | b'\n' | b'-'));
        let name = code[at + 1..].iter().take_while(|&&b| is_word(b) || b == b'.').count();
        let rest = &source.code[at + 1 + name..];
        let operator = [" + ", " - ", " * ", " / "].iter().any(|op| rest.starts_with(op));
        // `a & b - c` is arithmetic on bits; a borrow directly precedes its operand.
        let reported = rest.get(3..).is_some_and(|right| right.starts_with('&'));
        if starts_operand && name > 0 && operator && !reported {
            source.report(problems, at, OPERATOR, "an operator on tensors panics, use .f_sub() and the like");
        }
    }
}

#[test]
fn panicking_calls_and_operators_are_caught() {
    let count = |text: &str| {
        let mut problems = Vec::new();
        find(&Source::new("f.rs".as_ref(), &format!("use tch::Tensor;\n{text}")), &mut problems);
        problems.len()
    };
    for text in [
        "a.matmul(&b);",
        "a\n    .log_softmax(-1, Kind::Float);",
        "Tensor::zeros([2], options);",
        "tch::Tensor::from_slice(&[1.0]);",
        "tch::no_grad(|| f());",
        "let c = a + &b;",
        "let c = &a + &b;",
        "let c = &a * 2.0;",
        "f(&a - b);",
        "a += &b;",
        "let c = a\n    / &b;",
    ] {
        assert_eq!(count(text), 1, "{text}");
    }
    for text in [
        "a.f_matmul(&b)?;",
        "self.gather(&index)?;",
        "a.narrow(0, 1, 2).map_err(Error::from)?;",
        "Tensor::f_zeros([2], options)?;",
        "fn gather(&self) {}",
        "f(&a, &b); let c = a - b; if a && &b == c {}",
        "let mask = bits & 3 - 1;",
        "let c = name + &suffix; // tidy: allow(tensor-operator): both are strings",
        "// a.matmul(&b)",
    ] {
        assert_eq!(count(text), 0, "{text}");
    }
}
