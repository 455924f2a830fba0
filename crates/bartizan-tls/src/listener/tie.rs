//! What ties an accepted connection to the task that watches over it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Shared by a [`Keeper`], in the connection's task, and a [`Holder`], in what was accepted.
///
/// Either learns when the other is dropped.
#[derive(Debug, Default)]
pub(super) struct Tie {
    handed_over: AtomicBool,
    cut: AtomicBool,
    let_go: AtomicBool,
    // The two halves of a split stream may belong to two tasks, and both have to hear of the cut.
    reader: AtomicWaker,
    writer: AtomicWaker,
    keeper: AtomicWaker,
}

impl Tie {
    /// Whether the two halves have been made.
    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Makes the two halves. To be called once.
    pub(super) fn hand_over(self: Arc<Self>) -> (Keeper, Holder) {
        self.handed_over.store(true, Ordering::Release);
        (Keeper(Arc::clone(&self)), Holder(self))
    }
}

/// Resolves when the [`Holder`] is dropped; dropped before, it cuts the connection.
#[derive(Debug)]
pub(super) struct Keeper(Arc<Tie>);

impl Future for Keeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.keeper.register(cx.waker());
        if self.0.let_go.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.reader.wake();
        self.0.writer.wake();
    }
}

/// Which side of a stream is polled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Read,
    Write,
}

/// Tells an accepted connection that it is cut.
#[derive(Debug)]
pub(super) struct Holder(Arc<Tie>);

impl Holder {
    pub(super) fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::Acquire)
    }

    /// [`is_cut`](Self::is_cut); if not, the task is woken when it is.
    pub(super) fn watch(&self, side: Side, cx: &Context<'_>) -> bool {
        match side {
            Side::Read => self.0.reader.register(cx.waker()),
            Side::Write => self.0.writer.register(cx.waker()),
        }
        self.is_cut()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.let_go.store(true, Ordering::Release);
        self.0.keeper.wake();
    }
}
