//! Ctrl-C: the first one asks, the second one ends.

use std::sync::{
    Arc, Mutex, PoisonError,
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
    static FLAG: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);
    // Held until the handler is there: two threads may ask for the first time at once, and the system takes one.
    let mut known = FLAG.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(flag) = &*known {
        return Ok(Arc::clone(flag));
    }
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let ignored: Vec<libc::c_int> = SIGNALS.into_iter().filter(|signal| is_ignored(*signal)).collect();
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            // SAFETY: ends the process.
            unsafe { libc::_exit(INTERRUPTED) }
        }
        talk::say("stopping after what is being done now; once more to stop at once");
    })
    .map_err(|error| Error::environment(format!("cannot listen for Ctrl-C: {error}"), []))?;
    for signal in ignored {
        // SAFETY: sets the disposition that the process was started with.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    *known = Some(Arc::clone(&flag));
    Ok(flag)
}

/// The signals that the handler takes over.
const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Tells whether the process was started with a signal ignored, as `nohup` does: it then stays ignored.
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: `sigaction` is plain data, and the call only writes the present disposition into it.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut present) == 0
            && present.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn threads_may_ask_for_the_first_time_at_once() {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(super::flag)).collect();
            let flags: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
            assert!(flags.iter().all(|flag| std::sync::Arc::ptr_eq(flag, &flags[0])));
        });
    }
}
