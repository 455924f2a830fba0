use std::convert::Infallible;
use std::future::poll_fn;

use bartizan_testkit::FailAfter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{ConnInfo, Parsed, ProxyHeader};

fn conn<IO>(io: IO) -> Conn<IO> {
    let (peer, local) = ("192.0.2.7:5000".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    Conn::new(io, ConnInfo::new(peer, local))
}

/// Dials by answering with `stream`, once.
async fn tunnelled<B>(layer: TunnelLayer, stream: B) -> Tunnelled<B> {
    let mut stream = Some(stream);
    let dial =
        service_fn(move |()| std::future::ready(Ok::<_, Infallible>(stream.take().unwrap())));
    layer.layer(dial).oneshot(()).await.unwrap()
}

async fn close(mut far: DuplexStream, say: &[u8]) -> Vec<u8> {
    far.write_all(say).await.unwrap();
    far.shutdown().await.unwrap();
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    heard
}

#[tokio::test]
async fn passes_a_connection_on_and_tells_how_much_it_was() {
    let ((client, near_client), (backend, near_backend)) = (duplex(64), duplex(64));
    let tunnel = tunnelled(TunnelLayer::new(), near_backend).await;
    let (relayed, answer, question) = tokio::join!(
        tunnel.oneshot(conn(near_client)),
        close(client, b"question"),
        close(backend, b"the answer"),
    );
    let relayed = relayed.unwrap();
    assert_eq!((relayed.to_backend, relayed.to_client), (8, 10));
    assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"the answer"[..]));
}

#[tokio::test]
async fn says_first_whose_connection_it_is() {
    for (send, version) in [(SendProxy::v1(), "v1"), (SendProxy::v2(), "v2")] {
        let ((client, near_client), (backend, near_backend)) = (duplex(64), duplex(1_024));
        let tunnel = tunnelled(TunnelLayer::new().send_proxy(send), near_backend).await;
        let (relayed, _, question) = tokio::join!(
            tunnel.oneshot(conn(near_client)),
            close(client, b"question"),
            close(backend, b""),
        );
        assert_eq!(relayed.unwrap().to_backend, 8, "{version}: without the header");
        let Ok(Parsed::Complete { header, length }) = ProxyHeader::parse(&question) else {
            panic!("{version}: {question:?}")
        };
        assert_eq!(&question[length..], b"question", "{version}");
        let (source, destination) = header.endpoints().unwrap();
        assert_eq!(source, "192.0.2.7:5000".parse().unwrap());
        assert_eq!(destination, "192.0.2.1:443".parse().unwrap());
    }
}

#[tokio::test]
async fn only_what_the_backend_does_is_a_failure() {
    let ((client, near_client), (backend, near_backend)) = (duplex(64), duplex(64));
    let tunnel = tunnelled(TunnelLayer::new(), FailAfter::reading(near_backend, 0)).await;
    let (relayed, _, _) = tokio::join!(
        tunnel.oneshot(conn(near_client)),
        close(client, b""),
        close(backend, b"never read"),
    );
    assert!(matches!(relayed, Err(TunnelError::Backend { to_client: 0, .. })), "{relayed:?}");

    let ((_client, near_client), (backend, near_backend)) = (duplex(64), duplex(64));
    let tunnel = tunnelled(TunnelLayer::new(), near_backend).await;
    let client = conn(FailAfter::reading(near_client, 0));
    let (relayed, _) = tokio::join!(tunnel.oneshot(client), close(backend, b""));
    assert!(matches!(relayed.unwrap().end, RelayEnd::ClientFailed(_)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_tunnel_ends_and_a_backend_takes_one_connection() {
    let ((_client, near_client), (_backend, near_backend)) = (duplex(64), duplex(64));
    let layer = TunnelLayer::new().idle_timeout(Duration::from_secs(5));
    let mut tunnel = tunnelled(layer, near_backend).await;
    let relayed = (&mut tunnel).oneshot(conn(near_client)).await.unwrap();
    assert!(matches!(relayed.end, RelayEnd::Idle));
    let again = poll_fn(|cx| Service::<Conn<DuplexStream>>::poll_ready(&mut tunnel, cx)).await;
    assert!(matches!(again, Err(TunnelError::Used)));
}
