use std::convert::Infallible;
use std::sync::Mutex;

use bartizan_testkit::{FailAfter, Trickle};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::proxy_protocol::tests::{V4, v2};
use crate::{ConnInfo, ProxyHeaderError};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n";

/// Who it was for the inner service, and what that has read to the end.
type Served = (ConnInfo, Vec<u8>);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Calls the layer with a stream from `peer`; `None` if the inner service was not called.
async fn serve<IO>(
    layer: &AcceptProxyLayer,
    peer: &str,
    io: IO,
) -> (Result<(), ProxyProtocolError>, Option<Served>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let served = Arc::new(Mutex::new(None));
    let put = Arc::clone(&served);
    let inner = service_fn(move |conn: Conn<Replay<IO>>| {
        let put = Arc::clone(&put);
        async move {
            let (mut io, info, _) = conn.into_parts();
            let mut read = Vec::new();
            io.read_to_end(&mut read).await.unwrap();
            *put.lock().unwrap() = Some((info, read));
            Ok::<_, Infallible>(())
        }
    });
    let conn = Conn::new(io, ConnInfo::new(addr(peer), addr("10.9.9.9:443")));
    let result = layer.layer(inner).oneshot(conn).await;
    let served = served.lock().unwrap().take();
    (result, served)
}

/// A stream that has `bytes` and then ends.
async fn ended(bytes: &[u8]) -> DuplexStream {
    let (mut theirs, ours) = duplex(bytes.len().max(1));
    theirs.write_all(bytes).await.unwrap();
    ours
}

async fn serve_bytes(
    layer: &AcceptProxyLayer,
    peer: &str,
    bytes: &[u8],
) -> (Result<(), ProxyProtocolError>, Option<Served>) {
    let io = ended(bytes).await;
    serve(layer, peer, io).await
}

fn layer() -> AcceptProxyLayer {
    AcceptProxyLayer::new()
        .required(net("10.0.0.0/8"))
        .optional(net("10.1.0.0/16"))
        .refused(net("10.1.1.0/24"))
}

const REQUIRED: &str = "10.0.0.1:1000";
const OPTIONAL: &str = "10.1.0.1:1000";
const REFUSED: &str = "10.1.1.1:1000";
const UNTRUSTED: &str = "203.0.113.1:1000";

#[tokio::test]
async fn a_header_is_believed_of_those_who_are_trusted() {
    let binary = v2(0x21, 0x11, &[V4]);
    for header in [LINE, &binary] {
        let sent = [header, b"payload"].concat();
        for peer in [REQUIRED, OPTIONAL, "[::ffff:10.0.0.1]:1000"] {
            let (result, served) = serve_bytes(&layer(), peer, &sent).await;
            result.unwrap();
            let (info, read) = served.unwrap();
            assert_eq!(read, b"payload");
            assert_eq!(
                (info.peer(), info.local()),
                (addr("192.0.2.7:5000"), addr("198.51.100.1:443"))
            );
            assert_eq!(info.socket_peer().ip(), addr(peer).ip().to_canonical());
            assert_eq!(info.socket_local(), addr("10.9.9.9:443"));
            assert_eq!(info.peer_ip_text(), "192.0.2.7");
        }
        let (result, served) = serve_bytes(&layer(), REFUSED, &sent).await;
        assert!(matches!(result, Err(ProxyProtocolError::Refused)) && served.is_none());
        let (result, served) = serve_bytes(&layer(), UNTRUSTED, &sent).await;
        result.unwrap();
        let (info, read) = served.unwrap();
        assert_eq!((info.peer(), read), (addr(UNTRUSTED), sent));
        assert!(info.proxy_header().is_none());
    }
}

#[tokio::test]
async fn without_a_header_only_those_are_closed_who_have_to_send_one() {
    // The last two are beginnings of headers, and then the stream ends.
    for sent in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01", b"PRO", b"\r\n\r\n"] {
        let (result, served) = serve_bytes(&layer(), REQUIRED, sent).await;
        assert!(result.is_err() && served.is_none());
        for peer in [OPTIONAL, REFUSED, UNTRUSTED] {
            let (result, served) = serve_bytes(&layer(), peer, sent).await;
            result.unwrap();
            let (info, read) = served.unwrap();
            assert_eq!((info.peer(), &read[..]), (addr(peer), sent));
        }
    }
    let (result, _) = serve_bytes(&layer(), REQUIRED, b"GET").await;
    assert!(matches!(result, Err(ProxyProtocolError::Missing)));
}

#[tokio::test]
async fn a_source_that_nobody_named_is_served_before_its_first_byte() {
    let (_theirs, ours) = duplex(64);
    let inner = service_fn(|conn: Conn<Replay<DuplexStream>>| async move {
        assert!(conn.io().buffered().is_empty());
        Ok::<_, Infallible>(())
    });
    let conn = Conn::new(ours, ConnInfo::new(addr(UNTRUSTED), addr("10.9.9.9:443")));
    layer().layer(inner).oneshot(conn).await.unwrap();
}

#[tokio::test]
async fn a_second_header_is_payload() {
    let (_, served) = serve_bytes(&layer(), REQUIRED, &[LINE, LINE].concat()).await;
    assert_eq!(served.unwrap().1, LINE);
}

#[tokio::test]
async fn a_local_header_keeps_the_ends_of_the_socket() {
    for header in [v2(0x20, 0, &[]), v2(0x20, 0x11, &[V4]), b"PROXY UNKNOWN x\r\n".to_vec()] {
        let (result, served) = serve_bytes(&layer(), REQUIRED, &header).await;
        result.unwrap();
        let (info, _) = served.unwrap();
        assert_eq!((info.peer(), info.local()), (addr(REQUIRED), addr("10.9.9.9:443")));
        assert!(info.proxy_header().is_some());
    }
}

#[tokio::test]
async fn a_malformed_header_is_closed_where_it_is_optional_as_well() {
    let too_long = [&v2(0x21, 0x11, &[])[..14], &[0xff, 0xff]].concat();
    for bad in [&b"PROXY TCP4 1.2.3.4\r\n"[..], &v2(0x21, 0x13, &[V4]), &too_long] {
        for peer in [REQUIRED, OPTIONAL] {
            let (result, served) = serve_bytes(&layer(), peer, bad).await;
            assert!(matches!(result, Err(ProxyProtocolError::Malformed(_))) && served.is_none());
        }
    }
    let within = layer().max_length(27);
    let (result, _) = serve_bytes(&within, REQUIRED, &v2(0x21, 0x11, &[V4])).await;
    assert!(matches!(result, Err(ProxyProtocolError::Malformed(ProxyHeaderError::TooLong { .. }))));
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let long = v2(0x21, 0x11, &[V4, &[&[0xe0, 0x0b, 0xb8][..], &[7; 3000]].concat()]);
    for header in [LINE, &long] {
        let sent = [header, b"payload"].concat();
        let io = Trickle::new(ended(&sent).await, 1);
        let (result, served) = serve(&layer(), REQUIRED, io).await;
        result.unwrap();
        let (info, read) = served.unwrap();
        assert_eq!((info.peer(), &read[..]), (addr("192.0.2.7:5000"), &b"payload"[..]));
    }
}

#[tokio::test]
async fn a_header_that_ends_early_is_closed_at_every_byte() {
    let binary = v2(0x21, 0x11, &[V4]);
    for header in [LINE, &binary] {
        for cut in 0..header.len() {
            let (result, served) = serve_bytes(&layer(), REQUIRED, &header[..cut]).await;
            let Err(ProxyProtocolError::Closed { after }) = result else { panic!("{result:?}") };
            assert!(after == cut && served.is_none());
        }
        let (result, _) = serve_bytes(&layer(), OPTIONAL, &header[..13]).await;
        assert!(matches!(result, Err(ProxyProtocolError::Closed { after: 13 })));
        let (result, _) = serve_bytes(&layer(), OPTIONAL, b"").await;
        assert!(matches!(result, Err(ProxyProtocolError::Closed { after: 0 })));
    }
}

#[tokio::test]
async fn a_transport_that_fails_is_told_from_one_that_ends() {
    let io = FailAfter::reading(ended(LINE).await, 10);
    let (result, served) = serve(&layer(), REQUIRED, io).await;
    assert!(matches!(result, Err(ProxyProtocolError::Transport(_))) && served.is_none());
}

#[tokio::test(start_paused = true)]
async fn one_deadline_covers_all_of_the_header() {
    let start = Instant::now();
    let layer = layer().timeout(Duration::from_secs(7));
    let (mut theirs, ours) = duplex(1024);
    let trickle = async {
        for byte in LINE {
            sleep(Duration::from_secs(1)).await;
            if theirs.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    };
    let ((result, served), ()) = tokio::join!(serve(&layer, REQUIRED, ours), trickle);
    assert!(matches!(result, Err(ProxyProtocolError::Timeout { .. })) && served.is_none());
    assert!((7..=8).contains(&start.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_closed_after_ten_seconds() {
    for peer in [REQUIRED, OPTIONAL, REFUSED] {
        let start = Instant::now();
        let (_theirs, ours) = duplex(1024);
        let (result, _) = serve(&layer(), peer, ours).await;
        assert!(matches!(result, Err(ProxyProtocolError::Timeout { .. })));
        assert_eq!(start.elapsed().as_secs(), 10);
    }
}

#[tokio::test]
async fn the_deadline_does_not_cover_what_comes_after_the_header() {
    tokio::time::pause();
    let (mut theirs, ours) = duplex(1024);
    let client = async {
        theirs.write_all(LINE).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        theirs.write_all(b"late").await.unwrap();
        drop(theirs);
    };
    let layer = layer();
    let ((result, served), ()) = tokio::join!(serve(&layer, REQUIRED, ours), client);
    result.unwrap();
    assert_eq!(served.unwrap().1, b"late");
}

#[test]
fn the_longest_prefix_decides_whatever_the_order() {
    let of = |layer: &AcceptProxyLayer, ip: &str| {
        layer.rule_for(SocketAddr::new(ip.parse().unwrap(), 1))
    };
    let (wide, narrow) = (net("10.0.0.0/8"), net("10.1.0.0/16"));
    for layer in [
        AcceptProxyLayer::new().required(wide).refused(narrow),
        AcceptProxyLayer::new().refused(narrow).required(wide),
        // Host bits do not count, and what is said last holds.
        AcceptProxyLayer::new().optional(net("10.1.9.9/16")).required(wide).refused(narrow),
        AcceptProxyLayer::new().required(net("::ffff:10.0.0.0/104")).refused(narrow),
    ] {
        assert_eq!(of(&layer, "10.1.2.3"), Some(Rule::Refused));
        assert_eq!(of(&layer, "::ffff:10.2.2.3"), Some(Rule::Required));
        assert_eq!(of(&layer, "11.0.0.1"), None);
        assert_eq!(of(&layer, "2001:db8::1"), None);
    }
    let v6 = AcceptProxyLayer::new().required(net("::/0"));
    assert_eq!(of(&v6, "2001:db8::1"), Some(Rule::Required));
    assert_eq!(of(&v6, "10.0.0.1"), None);
}

#[tokio::test]
async fn the_service_that_is_called_is_the_one_that_was_ready() {
    let inner = service_fn(|_: Conn<Replay<DuplexStream>>| async { Ok::<_, Infallible>(()) });
    // Panics when it is called without a reservation.
    let limited = tower::limit::ConcurrencyLimit::new(inner, 1);
    let mut service = layer().layer(limited);
    for (peer, bytes) in [(REQUIRED, LINE), (UNTRUSTED, b"x"), (REQUIRED, LINE)] {
        let conn = Conn::new(ended(bytes).await, ConnInfo::new(addr(peer), addr(peer)));
        service.ready().await.unwrap().call(conn).await.unwrap();
    }
}

#[test]
fn only_a_peer_that_closes_without_a_byte_is_quiet() {
    assert!(ProxyProtocolError::Closed { after: 0 }.is_quiet());
    assert!(!ProxyProtocolError::Closed { after: 1 }.is_quiet());
    assert!(!ProxyProtocolError::Missing.is_quiet());
}
