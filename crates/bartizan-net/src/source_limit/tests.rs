use std::convert::Infallible;
use std::net::SocketAddr;

use tower::{ServiceExt, service_fn};

use super::*;
use crate::ConnInfo;

async fn admitted(limit: &SourceLimitLayer, peer: &str) -> bool {
    let inner = service_fn(|conn: Conn<()>| async move { Ok::<_, Infallible>(conn.info().peer()) });
    let peer: SocketAddr = peer.parse().unwrap();
    let conn = Conn::new((), ConnInfo::new(peer, peer));
    match limit.layer(inner).oneshot(conn).await {
        Ok(served) => {
            assert_eq!(served.ip(), peer.ip().to_canonical());
            true
        }
        Err(SourceLimitError::TooFast { peer: refused }) => {
            assert_eq!(refused, peer.ip().to_canonical());
            false
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn each_source_has_its_burst_and_its_rate() {
    let limit = SourceLimitLayer::new(2.0, 3).unwrap();
    for expected in [true, true, true, false, false] {
        assert_eq!(admitted(&limit, "192.0.2.1:1000").await, expected);
    }
    assert!(admitted(&limit.clone(), "192.0.2.2:1000").await);
    assert!(!admitted(&limit.clone(), "[::ffff:192.0.2.1]:1000").await, "shared by clones");
    tokio::time::advance(Duration::from_millis(500)).await;
    assert!(admitted(&limit, "192.0.2.1:1000").await);
    assert!(!admitted(&limit, "192.0.2.1:1000").await);
    assert_eq!(limit.refused(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_ipv6_network_is_one_source() {
    let limit = SourceLimitLayer::new(1.0, 1).unwrap();
    assert!(admitted(&limit, "[2001:db8::1]:1").await);
    assert!(!admitted(&limit, "[2001:db8::2]:1").await);
    assert!(admitted(&limit, "[2001:db8:0:1::1]:1").await);
}

#[tokio::test]
async fn an_inner_error_is_passed_on() {
    let limit = SourceLimitLayer::new(1.0, 1).unwrap();
    let inner = service_fn(|_: Conn<()>| async { Err::<(), _>("broken") });
    let addr: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let error = limit.layer(inner).oneshot(Conn::new((), ConnInfo::new(addr, addr))).await;
    assert_eq!(error.unwrap_err().to_string(), "broken");
}
