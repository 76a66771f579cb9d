//! Work on own threads, joined in order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::{Error, Result, threads::prepare_compute_thread};

/// Runs one piece of work per item, each on a compute thread of its own, the first on this thread.
///
/// The results come in the order of the items, and all threads have ended when it returns. With one item no
/// thread is started. This thread is prepared as a compute thread too (see [`prepare_compute_thread`]).
///
/// ```
/// let squares = align_core::parallel::map(vec![1, 2, 3], |x| x * x)?;
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Thread`] when a thread cannot be started, or the work of an item ends in a panic; of several panics
/// the one of the first item is reported. Work that is under way is waited for all the same.
pub fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Result<Vec<R>> {
    prepare_compute_thread();
    // A panic is reported before anything the work left half-done can be looked at.
    let work = |item| catch_unwind(AssertUnwindSafe(|| work(item)));
    let work = &work;
    thread::scope(|scope| {
        let mut items = items.into_iter();
        let first = items.next();
        let mut running = Vec::with_capacity(items.len());
        let mut not_started = None;
        for item in items {
            let thread = thread::Builder::new().name("align-compute".into());
            let body = move || {
                prepare_compute_thread();
                work(item)
            };
            match thread.spawn_scoped(scope, body) {
                Ok(handle) => running.push(handle),
                Err(error) => {
                    not_started = Some(Error::Thread { why: format!("could not be started: {error}") });
                    break;
                }
            }
        }
        // Without all threads the result is lost anyway; only what runs already is waited for.
        let first = first.filter(|_| not_started.is_none()).map(work);
        // Collected before any is looked at: a thread that is not joined would end the scope in a panic.
        let joined: Vec<_> = running.into_iter().map(|thread| thread.join().and_then(|done| done)).collect();
        if let Some(error) = not_started {
            return Err(error);
        }
        let results = first.into_iter().chain(joined);
        results.map(|result| result.map_err(|panic| Error::Thread { why: panic_text(&*panic) })).collect()
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it ended in a panic: {}", text.unwrap_or_else(|| "no message".into()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        assert_eq!(map(vec![1, 2, 3], |x| x * 10).unwrap(), [10, 20, 30]);
        assert!(map(Vec::<i32>::new(), |x| x).unwrap().is_empty());
    }

    #[test]
    fn a_panic_of_a_thread_is_an_error() {
        let error = map(vec![0, 1], |x| assert!(x == 0, "x was {x}")).unwrap_err();
        assert!(error.to_string().contains("x was 1"), "{error}");
    }

    #[test]
    fn a_panic_of_the_first_item_is_an_error_too() {
        for items in [vec![0], vec![0, 1, 2]] {
            let error = map(items, |x| assert!(x != 0, "x was {x}")).unwrap_err();
            assert!(error.to_string().contains("x was 0"), "{error}");
        }
    }

    #[test]
    fn all_threads_have_ended_when_several_panic() {
        let ended = AtomicUsize::new(0);
        let error = map(vec![0, 1, 2, 3], |x| {
            if x == 3 {
                thread::sleep(Duration::from_millis(50));
            }
            ended.fetch_add(1, Ordering::SeqCst);
            assert!(x == 0, "x was {x}");
        })
        .unwrap_err();
        assert_eq!(ended.into_inner(), 4);
        assert!(error.to_string().contains("x was 1"), "{error}");
    }
}
