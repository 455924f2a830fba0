//! What backends count without a lock, in all orders that threads may run in.
//!
//! Dependencies of the whole crate do not build for loom, so `run` takes the files that matter. Their
//! own models lie with them; here is how they work together in the queue.

mod latency;
mod load;
mod sync;

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use loom::sync::Mutex;

    use crate::load::Load;
    use crate::sync::{AtomicUsize, Ordering, fence};

    const ONE: Option<NonZeroUsize> = NonZeroUsize::new(1);

    /// The steps of `queue.rs`: who gives a slot back looks for those who wait without a lock, and
    /// who looks for a slot with the lock held is counted first.
    #[derive(Default)]
    struct Queue {
        load: Load,
        waiting: AtomicUsize,
        line: Mutex<Line>,
    }

    #[derive(Default)]
    struct Line {
        stands: bool,
        served: bool,
    }

    impl Queue {
        fn give_back(&self) {
            self.load.give_back();
            fence(Ordering::SeqCst);
            if self.waiting.load(Ordering::SeqCst) == 0 {
                return;
            }
            let mut line = self.line.lock().unwrap();
            if line.stands && self.load.try_take(ONE) {
                (line.stands, line.served) = (false, true);
            }
        }

        fn join(&self) {
            let mut line = self.line.lock().unwrap();
            self.waiting.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // Policies look at the count before they try to take.
            match self.load.in_flight() == 0 && self.load.try_take(ONE) {
                true => line.served = true,
                false => line.stands = true,
            }
        }
    }

    #[test]
    fn who_waits_and_a_slot_that_becomes_free_do_not_miss_each_other() {
        loom::model(|| {
            let queue = Arc::new(Queue::default());
            queue.load.take();
            let other = Arc::clone(&queue);
            let leaves = loom::thread::spawn(move || other.give_back());
            queue.join();
            leaves.join().unwrap();
            assert!(queue.line.lock().unwrap().served, "it stands beside a free slot");
            assert_eq!(queue.load.in_flight(), 1);
        });
    }
}
