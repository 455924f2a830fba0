use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{FailAfter, Trickle};

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_trickle_reads_at_most_n_bytes_every_other_call() {
    let mut trickle = Trickle::new(&b"abcdefg"[..], 3);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let mut read = || {
        let mut bytes = [0; 16];
        let mut buf = ReadBuf::new(&mut bytes);
        let poll = Pin::new(&mut trickle).poll_read(&mut cx, &mut buf);
        poll.is_ready().then(|| String::from_utf8(buf.filled().to_vec()).unwrap())
    };

    let calls: Vec<_> = (0..8).map(|_| read()).collect();

    let some = |s: &str| Some(s.to_owned());
    let expected = [None, some("abc"), None, some("def"), None, some("g"), None, some("")];
    assert_eq!(calls, expected);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 4, "one wake for each pending call");
}

#[test]
fn a_trickle_writes_at_most_n_bytes_every_other_call() {
    let mut trickle = Trickle::new(Vec::new(), 2);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let mut write = |bytes: &[u8]| match Pin::new(&mut trickle).poll_write(&mut cx, bytes) {
        Poll::Ready(written) => Some(written.unwrap()),
        Poll::Pending => None,
    };

    let calls = [write(b"abc"), write(b"abc"), write(b"c"), write(b"c")];

    assert_eq!(calls, [None, Some(2), None, Some(1)]);
    assert_eq!(trickle.into_inner(), b"abc");
    assert_eq!(wakes.0.load(Ordering::Relaxed), 2, "one wake for each pending call");
}

#[tokio::test]
async fn flushing_and_shutting_down_a_trickle_are_pending_once() {
    let mut trickle = Trickle::new(Vec::new(), 1);
    let (mut flushes, mut shutdowns) = (0, 0);
    let counted = |calls: &mut u32, poll: Poll<_>| {
        *calls += 1;
        poll
    };

    poll_fn(|cx| counted(&mut flushes, Pin::new(&mut trickle).poll_flush(cx))).await.unwrap();
    poll_fn(|cx| counted(&mut shutdowns, Pin::new(&mut trickle).poll_shutdown(cx))).await.unwrap();

    assert_eq!((flushes, shutdowns), (2, 2));
}

#[tokio::test]
async fn everything_comes_through_a_trickle_in_order() {
    let sent: Vec<u8> = (0..=255).collect();
    let (near, far) = tokio::io::duplex(64);
    let (mut near, mut far) = (Trickle::new(near, 7), Trickle::new(far, 5));

    let write = async {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(far.read_to_end(&mut got), write);

    assert_eq!(read.unwrap(), 256);
    assert_eq!(got, sent);
}

#[test]
#[should_panic(expected = "never ends")]
fn a_trickle_of_nothing_is_refused() {
    let _ = Trickle::new(tokio::io::empty(), 0);
}

#[tokio::test]
async fn reading_fails_right_after_the_nth_byte_and_stays_failed() {
    let mut io = FailAfter::reading(&b"abcdef"[..], 4);
    let mut got = Vec::new();

    let error = io.read_to_end(&mut got).await.unwrap_err();

    assert_eq!(got, b"abcd");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(io.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_end_before_the_nth_byte_is_an_end() {
    let mut got = Vec::new();

    FailAfter::reading(&b"abc"[..], 4).read_to_end(&mut got).await.unwrap();

    assert_eq!(got, b"abc");
}

#[tokio::test]
async fn writing_fails_right_after_the_nth_byte_and_so_does_the_flush() {
    let mut io = FailAfter::writing(Vec::new(), 4);

    let error = io.write_all(b"abcdef").await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(io.flush().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(io.shutdown().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(io.into_inner(), b"abcd");
}

#[tokio::test]
async fn each_direction_has_its_own_count() {
    let (near, mut far) = tokio::io::duplex(64);
    let mut io = FailAfter::new(near, 3);
    far.write_all(b"abc").await.unwrap();

    io.write_all(b"xy").await.unwrap();
    io.read_exact(&mut [0; 3]).await.unwrap();
    io.write_all(b"z").await.unwrap();

    assert!(io.write_all(b"!").await.is_err());
    assert!(io.read_u8().await.is_err());
}

#[tokio::test]
async fn the_other_direction_never_fails() {
    let mut writing = FailAfter::writing(tokio::io::join(&b"abc"[..], tokio::io::sink()), 0);
    let mut got = Vec::new();
    writing.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"abc");

    let mut reading = FailAfter::reading(tokio::io::join(tokio::io::empty(), Vec::new()), 0);
    reading.write_all(b"abc").await.unwrap();
    reading.flush().await.unwrap();
}
