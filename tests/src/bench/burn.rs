//! A machine that is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, available_parallelism, spawn};

/// One thread for each processor that does nothing but run, at ordinary priority. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Burn {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burn {
    pub(super) fn start() -> Burn {
        let stop = Arc::new(AtomicBool::new(false));
        let count = available_parallelism().map_or(1, usize::from);
        let burning = |_| {
            let stop = Arc::clone(&stop);
            spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..count).map(burning).collect();
        Burn { stop, threads }
    }
}

impl Drop for Burn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // They cannot fail.
            drop(thread.join());
        }
    }
}
