//! Threads that burn processor time: a share of it, not a rate of work, however many others want it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// How long a thread sleeps that has had its share.
const PAUSE: Duration = Duration::from_millis(1);
/// Between two looks at the clock.
const SPINS: u32 = 10_000;

/// Burns until it is dropped.
pub(crate) struct Burner {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burner {
    /// Takes so many cores, as far as it gets them.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a machine has few cores")]
    pub(crate) fn start(cores: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = cores.ceil().max(1.0);
        let threads = (0..count as usize).map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || burn(cores / count, &stop))
        });
        Self { threads: threads.collect(), stop }
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn burn(share: f64, stop: &AtomicBool) {
    let (began, before) = (Instant::now(), burnt());
    while !stop.load(Relaxed) {
        if (burnt() - before).as_secs_f64() > began.elapsed().as_secs_f64() * share {
            thread::sleep(PAUSE);
        } else {
            (0..SPINS).for_each(|_| std::hint::spin_loop());
        }
    }
}

/// What this thread has had.
fn burnt() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
