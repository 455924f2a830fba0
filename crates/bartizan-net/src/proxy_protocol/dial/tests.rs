use std::time::Duration;

use bartizan_testkit::{FailAfter, Trickle};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, DuplexStream, duplex};
use tokio::time::timeout;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::Address;

fn target() -> Address {
    "192.0.2.1:80".parse().unwrap()
}

/// Dials a stream that `wrap` makes, and gives what has arrived at its other end with "payload".
async fn arrived<IO: AsyncWrite + Unpin>(
    layer: SendProxyLayer,
    wrap: impl Fn(DuplexStream) -> IO,
) -> Vec<u8> {
    let (mut theirs, ours) = duplex(1024);
    let mut io = Some(wrap(ours));
    let dial = service_fn(move |_: Address| {
        let io = io.take().unwrap();
        async move { Ok::<_, io::Error>(io) }
    });
    let mut stream = layer.layer(dial).oneshot(target()).await.unwrap();
    // Without a flush of what follows: the header is there already.
    let mut header = vec![0; 1024];
    let reading = timeout(Duration::from_secs(1), theirs.read(&mut header));
    let n = reading.await.expect("it has been flushed").unwrap();
    stream.write_all(b"payload").await.unwrap();
    stream.shutdown().await.unwrap();
    header.truncate(n);
    theirs.read_to_end(&mut header).await.unwrap();
    header
}

#[tokio::test(start_paused = true)]
async fn the_header_is_written_whole_before_the_stream_is_handed_over() {
    let expected = b"PROXY UNKNOWN\r\npayload";
    let layer = SendProxyLayer::local(&SendProxy::v1());
    assert_eq!(arrived(layer.clone(), |io| Trickle::new(io, 1)).await, expected);
    assert_eq!(arrived(layer.clone(), BufWriter::new).await, expected);
    assert_eq!(arrived(layer, |io| BufWriter::new(Trickle::new(io, 3))).await, expected);
    let local = SendProxyLayer::local(&SendProxy::v2());
    let arrived = arrived(local, |io| io).await;
    assert_eq!(arrived, [&SendProxy::v2().local()[..], b"payload"].concat());
}

#[tokio::test]
async fn a_failed_dial_is_told_from_a_failed_write() {
    let layer = SendProxyLayer::new(Bytes::from_static(b"PROXY UNKNOWN\r\n"));
    let refused = service_fn(|_: Address| async {
        Err::<DuplexStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    });
    let error = layer.layer(refused).oneshot(target()).await.unwrap_err();
    let SendProxyError::Dial(source) = error else { panic!("{error}") };
    assert!(source.is::<io::Error>());

    let broken = service_fn(|_: Address| async {
        let (_, ours) = duplex(64);
        Ok::<_, io::Error>(FailAfter::writing(ours, 5))
    });
    let error = layer.layer(broken).oneshot(target()).await.unwrap_err();
    assert!(matches!(error, SendProxyError::Write(_)), "{error}");
}
