//! Bulk between two TCP sockets without a copy through this process: `splice(2)`.
//!
//! The pages that the network card or the other process has filled move from one socket into a pipe
//! and on to the other socket. That saves the two copies which are half of what bulk costs, and adds
//! a system call for the pipe, so it is for streams that bring much at a time.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::failed::Failed;
use crate::Replay;

/// Finds out whether a stream is bulk, and moves it if it is.
#[derive(Debug, Default)]
pub(super) struct Splicer {
    // Reads in a row that were large, while copying; small, while splicing.
    streak: u8,
    on: bool,
    // Bytes in the pipe. There is a pipe only while there are some, or a read is tried.
    filled: usize,
    pipe: Option<Pipe>,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Read(usize),
    Written(usize),
    End,
}

impl Splicer {
    /// A read into memory brought so many bytes.
    pub(super) fn note_copied(&mut self, bytes: usize) {
        self.streak = if bytes >= LARGE { self.streak + 1 } else { 0 };
        if self.streak == STREAK {
            self.streak = 0;
            self.on = true;
        }
    }

    /// Whether the next step is to be a splice. What is in the pipe has to be out of it before
    /// anything is copied past it.
    pub(super) fn is_on(&self) -> bool {
        self.on || self.filled > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves bytes out of the pipe, or into it when it is empty. `None`: there is no pipe to be had
    /// now, so it is off until the stream has shown once more that it is bulk.
    pub(super) fn poll_step(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Moved>, Failed>> {
        let Some(pipe) = self.pipe.take().or_else(Pipe::take) else {
            self.on = false;
            return Poll::Ready(Ok(None));
        };
        if self.filled > 0 {
            let written = poll_io(to, Interest::WRITABLE, cx, || pipe.write_to(to, self.filled));
            self.pipe = Some(pipe);
            let written = ready!(written).map_err(Failed::Write)?;
            self.filled -= written;
            if self.filled == 0 {
                self.pipe.take().into_iter().for_each(Pipe::give_back);
            }
            return Poll::Ready(Ok(Some(Moved::Written(written))));
        }
        let read = poll_io(from, Interest::READABLE, cx, || pipe.read_from(from));
        let Poll::Ready(Ok(read @ 1..)) = read else {
            pipe.give_back();
            return match ready!(read) {
                Ok(_) => Poll::Ready(Ok(Some(Moved::End))),
                Err(error) => Poll::Ready(Err(Failed::Read(error))),
            };
        };
        (self.pipe, self.filled) = (Some(pipe), read);
        self.note_spliced(read);
        Poll::Ready(Ok(Some(Moved::Read(read))))
    }

    fn note_spliced(&mut self, bytes: usize) {
        self.streak = if bytes < SMALL { self.streak + 1 } else { 0 };
        if self.streak == STREAK {
            self.streak = 0;
            self.on = false;
        }
    }
}

/// The socket behind a stream, if it is one and nothing stands before it.
pub(super) fn socket<IO: 'static>(io: &IO) -> Option<&TcpStream> {
    let io: &dyn Any = io;
    io.downcast_ref::<TcpStream>().or_else(|| {
        let replay = io.downcast_ref::<Replay<TcpStream>>()?;
        replay.buffered().is_empty().then(|| replay.io())
    })
}

/// Tries until it is done or the socket is to be waited for.
fn poll_io(
    socket: &TcpStream,
    interest: Interest,
    cx: &mut Context<'_>,
    mut attempt: impl FnMut() -> Result<usize, Errno>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(if interest.is_readable() {
            socket.poll_read_ready(cx)
        } else {
            socket.poll_write_ready(cx)
        })?;
        match socket.try_io(interest, || attempt().map_err(Into::into)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

/// Closed when dropped, with the bytes in it: none is ever given back that is not empty.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    _counted: Counted,
}

/// One of the pipes that the process has.
#[derive(Debug)]
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let counted = PIPES.fetch_add(1, Ordering::Relaxed) < MOST_PIPES;
        // Also when it is one too many: its drop takes it off again.
        let this = Self;
        counted.then_some(this)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    /// An empty one of this thread's, or a new one; `None` if there are too many, or the system has
    /// none left.
    fn take() -> Option<Self> {
        IDLE.with_borrow_mut(Vec::pop).or_else(|| {
            let counted = Counted::new()?;
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // If it may not be that large, it works as it is.
            let _ = fcntl_setpipe_size(&write, PIPE);
            Some(Self { read, write, _counted: counted })
        })
    }

    /// It is empty. A few are kept: to make one takes longer than to fill it.
    fn give_back(self) {
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < MOST_IDLE {
                idle.push(self);
            }
        });
    }

    fn read_from(&self, socket: &TcpStream) -> Result<usize, Errno> {
        splice(socket, None, &self.write, None, PIPE, FLAGS)
    }

    fn write_to(&self, socket: &TcpStream, bytes: usize) -> Result<usize, Errno> {
        splice(&self.read, None, socket, None, bytes, FLAGS)
    }
}

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

static PIPES: AtomicUsize = AtomicUsize::new(0);

/// Streams whose reader is slow keep theirs, at two descriptors each. They must not use up those that
/// connections need: further ones are copied.
const MOST_PIPES: usize = 256;

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// What a stream that is blocked may hold in the kernel.
const PIPE: usize = 256 * 1024;

/// One for reading and one for writing, of the streams that move at the same time, which is one for
/// each direction of a tunnel; those that are blocked have theirs apart.
const MOST_IDLE: usize = 4;

/// A read that is worth a pipe.
const LARGE: usize = 32 * 1024;

/// A read that was not worth it.
const SMALL: usize = 8 * 1024;

/// A single large read is an answer of some size; these in a row are bulk.
const STREAK: u8 = 4;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (far, near) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (far.unwrap(), near.unwrap().0)
    }

    fn bulk() -> Splicer {
        let mut splicer = Splicer::default();
        (0..STREAK).for_each(|_| splicer.note_copied(LARGE));
        splicer
    }

    #[test]
    fn large_reads_in_a_row_are_bulk() {
        assert!(bulk().is_on());
        let mut splicer = Splicer::default();
        for _ in 0..10 {
            (1..STREAK).for_each(|_| splicer.note_copied(LARGE));
            splicer.note_copied(LARGE - 1);
        }
        assert!(!splicer.is_on());
    }

    #[tokio::test]
    async fn moves_what_there_is_and_then_the_end_and_leaves_no_pipe_behind() {
        let ((mut source, from), (mut sink, to)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
        let mut splicer = bulk();
        let moving = async {
            let (mut read, mut written) = (0, 0);
            loop {
                let step = poll_fn(|cx| splicer.poll_step(&from, &to, cx)).await.unwrap();
                assert_eq!(splicer.is_empty(), splicer.pipe.is_none());
                match step.expect("there are pipes") {
                    Moved::Read(n) => read += n,
                    Moved::Written(n) => written += n,
                    Moved::End => return (read, written),
                }
            }
        };
        let sending = async {
            source.write_all(&sent).await.unwrap();
            source.shutdown().await.unwrap();
        };
        let (moved, ()) = tokio::join!(moving, sending);
        assert_eq!(moved, (sent.len(), sent.len()));
        let mut got = vec![0; sent.len()];
        sink.read_exact(&mut got).await.unwrap();
        assert!(got == sent);
    }

    #[tokio::test]
    async fn little_at_a_time_is_bulk_no_more() {
        let ((mut source, from), (mut sink, to)) = (pair().await, pair().await);
        let mut splicer = bulk();
        for _ in 0..STREAK {
            source.write_all(b"little").await.unwrap();
            for expected in [Moved::Read(6), Moved::Written(6)] {
                assert!(splicer.is_on(), "also for what is in the pipe when it is bulk no more");
                let step = poll_fn(|cx| splicer.poll_step(&from, &to, cx)).await.unwrap();
                assert_eq!(step, Some(expected));
            }
            sink.read_exact(&mut [0; 6]).await.unwrap();
        }
        assert!(!splicer.is_on());
    }

    #[tokio::test]
    async fn where_there_is_no_pipe_it_is_off_and_may_be_on_again() {
        let ((mut source, from), (_sink, to)) = (pair().await, pair().await);
        source.write_all(b"bulk").await.unwrap();
        let taken: Vec<Pipe> = std::iter::from_fn(Pipe::take).collect();
        assert!(taken.len() <= MOST_PIPES);
        let mut splicer = bulk();
        let step = poll_fn(|cx| splicer.poll_step(&from, &to, cx)).await.unwrap();
        assert_eq!((step, splicer.is_on()), (None, false));
        drop(taken);
        (0..STREAK).for_each(|_| splicer.note_copied(LARGE));
        let step = poll_fn(|cx| splicer.poll_step(&from, &to, cx)).await.unwrap();
        assert_eq!(step, Some(Moved::Read(4)));
    }

    #[tokio::test]
    async fn only_sockets_with_nothing_before_them_are_spliced() {
        let (socket_, _far) = pair().await;
        assert!(socket(&socket_).is_some());
        let replay = Replay::new(&b"x"[..], socket_);
        assert!(socket(&replay).is_none());
        let (_, socket_) = replay.into_parts();
        assert!(socket(&Replay::new(&b""[..], socket_)).is_some());
        assert!(socket(&tokio::io::empty()).is_none());
    }
}
