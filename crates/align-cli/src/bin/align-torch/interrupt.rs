//! Ctrl-C: the first one asks, the second one ends.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use align_cli::{Error, Result, talk};

/// Exit code of an interrupted command.
const INTERRUPTED: i32 = 130;

/// Returns the flag that the first Ctrl-C (or SIGTERM) sets. The second one ends the process at once: nothing is
/// half-written then either, because files are renamed into place.
///
/// # Errors
/// The system refuses the handler.
pub fn flag() -> Result<Arc<AtomicBool>> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(flag) = FLAG.get() {
        return Ok(Arc::clone(flag));
    }
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            // SAFETY: ends the process.
            unsafe { libc::_exit(INTERRUPTED) }
        }
        talk::say("stopping after what is being done now; once more to stop at once");
    })
    .map_err(|error| Error::environment(format!("cannot listen for Ctrl-C: {error}"), []))?;
    Ok(Arc::clone(FLAG.get_or_init(|| flag)))
}
