//! Work on large bodies, done away from the workers' threads: while a body of megabytes is decoded and written anew, the other requests
//! of its worker go on.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Bytes of a body from which on it is decoded and encoded elsewhere. A body that consists of short parts only takes some 20 ns for
/// each of its bytes, so that one of this size takes about 300 µs; to hand it over takes about 20.
pub const LARGE: usize = 16 << 10;

/// Bytes of the bodies that are worked on at the same time. Each takes at most four times its size of memory beside itself.
const ROOM: usize = 64 << 20;
/// Room is counted in units of so many bytes.
const UNIT: usize = 1 << 10;

/// See the module.
#[derive(Debug)]
pub struct Offload {
    threads: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

impl Offload {
    /// For a gateway with so many workers: half as many threads, so that large bodies cannot take all cores.
    pub fn new(workers: usize) -> Self {
        Self {
            threads: Arc::new(Semaphore::new((workers / 2).max(1))),
            room: Arc::new(Semaphore::new(ROOM / UNIT)),
        }
    }

    /// Does work on a body of so many bytes elsewhere, in its turn. What was begun is finished, also when nobody waits for it any more:
    /// it holds its place until then.
    pub async fn run<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        let units = bytes.div_ceil(UNIT).clamp(1, ROOM / UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // Neither of the two is ever closed.
        let room = self.room.clone().acquire_many_owned(units).await;
        let thread = self.threads.clone().acquire_owned().await;
        let done = spawn_blocking(move || {
            let done = work();
            drop((room, thread));
            done
        });
        match done.await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => resume_unwind(failed.into_panic()),
            // The runtime ends, and this with it.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn the_worker_goes_on_meanwhile() {
        let offload = Offload::new(1);
        let (send, receive) = mpsc::channel();
        runtime().block_on(async {
            let work = offload.run(LARGE, move || (receive.recv().unwrap(), thread::current().id()));
            let meanwhile = async { send.send("the worker is free").unwrap() };
            let ((said, thread), ()) = tokio::join!(work, meanwhile);
            assert_eq!(said, "the worker is free");
            assert_ne!(thread, thread::current().id());
        });
    }

    #[test]
    fn no_more_is_done_at_once_than_there_are_threads_for() {
        let offload = Offload::new(4);
        let running = Arc::new(AtomicUsize::new(0));
        let work = |running: Arc<AtomicUsize>| {
            offload.run(LARGE, move || {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                now
            })
        };
        let all = (0..50).map(|_| work(running.clone()));
        let most = runtime().block_on(futures_util::future::join_all(all));
        assert!(most.iter().all(|now| *now <= 2), "{most:?}");
    }

    #[test]
    fn a_body_that_is_larger_than_all_room_has_its_turn() {
        let offload = Offload::new(1);
        assert_eq!(runtime().block_on(offload.run(usize::MAX, || 7)), 7);
        assert_eq!(offload.room.available_permits(), ROOM / UNIT);
    }

    #[test]
    fn a_panic_is_the_callers() {
        let offload = Offload::new(1);
        let run = || runtime().block_on(offload.run(1, || panic!("as before")));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(caught.is_err());
        assert_eq!(offload.threads.available_permits(), 1);
    }
}
