//! What clients get wrong says nothing of backends.

use bartizan_balance::{Balance, Cluster, Condition, First, Outlier};
use bartizan_testkit::HttpBackend;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use tower::ServiceExt;

use super::test_dial::TestDial;
use super::{HttpPool, HttpPoolLayer};
use crate::{ClientBodyError, status_of};

type Upload = Broken;

/// A body that breaks off after its first frame, or none.
#[derive(Default)]
struct Broken(Option<UnsyncBoxBody<Bytes, ClientBodyError>>);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match &mut self.0 {
            Some(body) => std::pin::Pin::new(body).poll_frame(cx),
            None => std::task::Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

fn broken() -> Broken {
    let gone = || Err(ClientBodyError::Broken("it went away".into()));
    let frames = [Ok(Frame::data(Bytes::from_static(b"x"))), gone()];
    Broken(Some(StreamBody::new(stream::iter(frames)).boxed_unsync()))
}

async fn after(request: impl Fn() -> Request<Upload>) -> (StatusCode, Condition) {
    let server = HttpBackend::start("a").await;
    let addr = server.addr().to_string();
    let web = Cluster::builder("web").backend("a", &addr).backend("b", &addr);
    let web = web.outlier(Outlier::new().consecutive_5xx(1)).build().unwrap();
    let pool: HttpPool<TestDial, Upload> = HttpPoolLayer::new().pool(TestDial::default());
    let stack = Balance::new(web.clone(), First::new(), pool);
    let error = stack.oneshot(request()).await.unwrap_err();
    let condition = web.table().members()[0].condition();
    (status_of(&error), condition)
}

#[tokio::test]
async fn a_client_that_asks_for_connect_ejects_nobody() {
    let request = || Request::connect("example.com:443").body(Broken::default()).unwrap();
    assert_eq!(after(request).await, (StatusCode::METHOD_NOT_ALLOWED, Condition::Up));
}

#[tokio::test]
async fn a_client_whose_upload_breaks_off_ejects_nobody() {
    let request = || Request::post("/").header("host", "test").body(broken()).unwrap();
    assert_eq!(after(request).await, (StatusCode::BAD_REQUEST, Condition::Up));
}
