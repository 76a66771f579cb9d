use std::ffi::OsString;

use serde_json::json;

use crate::{Error, launch, talk};

/// Becomes `align-torch doctor`; where that cannot start, says so in the doctor's own form.
pub(super) fn run(as_json: bool, arguments: &[OsString]) -> Error {
    let error = launch::become_torch(arguments);
    if as_json {
        let finding =
            json!({"name": "libtorch", "ok": false, "value": error.to_string(), "hints": error.hints()});
        let report = json!({"ok": false, "version": env!("CARGO_PKG_VERSION"), "checks": [finding]});
        if let Err(closed) = talk::data(&format!("{report:#}\n")) {
            return closed;
        }
    }
    error
}
