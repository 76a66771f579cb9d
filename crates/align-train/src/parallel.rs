use std::thread;

use align_core::threads::prepare_compute_thread;

use crate::{Error, Result};

/// Runs one piece of work per item, each on a compute thread of its own, the first on this thread.
///
/// The results come in the order of the items. With one item no thread is started.
pub(crate) fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Result<Vec<R>> {
    prepare_compute_thread();
    let work = &work;
    thread::scope(|scope| {
        let mut items = items.into_iter();
        let first = items.next();
        let others = items
            .map(|item| {
                thread::Builder::new().name("align-compute".into()).spawn_scoped(scope, move || {
                    prepare_compute_thread();
                    work(item)
                })
            })
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| Error::Thread(format!("could not be started: {error}")))?;
        let mut results: Vec<R> = first.map(work).into_iter().collect();
        for other in others {
            results.push(other.join().map_err(|panic| Error::Thread(panic_text(&*panic)))?);
        }
        Ok(results)
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it ended in a panic: {}", text.unwrap_or_else(|| "no message".into()))
}

/// Deals items out into `parts` runs of about equal number, in order.
pub(crate) fn deal<T>(items: Vec<T>, parts: usize) -> Vec<Vec<T>> {
    let each = items.len().div_ceil(parts.max(1)).max(1);
    let mut dealt = Vec::with_capacity(parts);
    let mut items = items.into_iter();
    loop {
        let run: Vec<T> = items.by_ref().take(each).collect();
        if run.is_empty() {
            return dealt;
        }
        dealt.push(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        assert_eq!(map(vec![1, 2, 3], |x| x * 10).unwrap(), [10, 20, 30]);
        assert!(map(Vec::<i32>::new(), |x| x).unwrap().is_empty());
        assert_eq!(deal(vec![1, 2, 3, 4, 5], 2), [vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(deal(vec![1], 4), [vec![1]]);
    }

    #[test]
    fn a_panic_of_a_thread_is_an_error() {
        let error = map(vec![0, 1], |x| assert!(x == 0, "x was {x}")).unwrap_err();
        assert!(error.to_string().contains("x was 1"), "{error}");
    }
}
