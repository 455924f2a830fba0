use std::io;

use bartizan_net::Address;
use regex::bytes::Regex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tower::{ServiceExt, service_fn};

use super::*;

/// Talks to a server that says each of `says`; before each but the first it reads what it is sent. It
/// then closes. Returns the verdict, and what the server has read.
async fn talk_to(
    says: &[&[u8]],
    script: impl FnOnce(ScriptProbe<Fake>) -> ScriptProbe<Fake>,
) -> (Verdict, Vec<String>) {
    let (client, server) = duplex(64 * 1024);
    let probe = script(ScriptProbe::new(Fake::new(client)));
    tokio::join!(ask(probe), serve(server, says))
}

async fn serve(mut server: DuplexStream, says: &[&[u8]]) -> Vec<String> {
    let mut heard = Vec::new();
    for (turn, said) in says.iter().enumerate() {
        if turn > 0 {
            let mut piece = [0; 256];
            let read = server.read(&mut piece).await.unwrap();
            heard.push(String::from_utf8_lossy(&piece[..read]).into_owned());
        }
        // Each byte by itself: a script must not depend on pieces.
        for byte in *said {
            if server.write_all(&[*byte]).await.is_err() {
                return heard;
            }
            tokio::task::yield_now().await;
        }
    }
    heard
}

async fn ask<D>(probe: D) -> Verdict
where
    D: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
{
    let backend = Backend::new("a", Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1))));
    let Ok(verdict) = probe.oneshot(Arc::new(backend)).await;
    verdict
}

/// Dials a stream that is there already, once.
#[derive(Clone)]
struct Fake(Arc<std::sync::Mutex<Option<DuplexStream>>>);

impl Fake {
    fn new(io: DuplexStream) -> Self {
        Self(Arc::new(std::sync::Mutex::new(Some(io))))
    }
}

impl Service<Arc<Backend>> for Fake {
    type Response = DuplexStream;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<DuplexStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Arc<Backend>) -> Self::Future {
        std::future::ready(Ok(self.0.lock().unwrap().take().unwrap()))
    }
}

fn redis(probe: ScriptProbe<Fake>) -> ScriptProbe<Fake> {
    probe.send("PING\r\n").expect("+PONG\r\n")
}

fn smtp(probe: ScriptProbe<Fake>) -> ScriptProbe<Fake> {
    let banner = probe.expect(Expect::starts_with("220")).expect("\r\n");
    banner.send("QUIT\r\n").expect(Expect::starts_with("221"))
}

fn mysql(probe: ScriptProbe<Fake>) -> ScriptProbe<Fake> {
    let refusal = Regex::new(r"(?s-u)^...\x00\xff").unwrap();
    probe.expect_not(refusal).expect(Regex::new(r"(?s-u)^...\x00\x0a").unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_recipe_for_redis_works() {
    let (verdict, heard) = talk_to(&[b"", b"+PONG\r\n"], redis).await;
    assert_eq!((verdict, heard), (Verdict::Pass, vec!["PING\r\n".to_owned()]));
    let (verdict, _) = talk_to(&[b"", b"-NOAUTH Authentication required.\r\n"], redis).await;
    let reason = r#"step 2, expect "+PONG\r\n": the connection ended; what came: "-NOAUTH Authentication required.\r\n""#;
    assert_eq!(verdict, Verdict::fail(reason));
}

#[tokio::test(start_paused = true)]
async fn the_recipe_for_smtp_works() {
    let (verdict, heard) = talk_to(&[b"220 mail.test ESMTP\r\n", b"221 bye\r\n"], smtp).await;
    assert_eq!((verdict, heard), (Verdict::Pass, vec!["QUIT\r\n".to_owned()]));
    let (verdict, heard) = talk_to(&[b"554 no service\r\n"], smtp).await;
    assert_eq!(heard, [""; 0]);
    let reason = r#"step 1, expect "220" first: something else came; what came: "5"#;
    assert!(verdict.reason().starts_with(reason), "{verdict:?}");
}

#[tokio::test(start_paused = true)]
async fn the_recipe_for_mysql_works() {
    let greeting = b"\x4a\x00\x00\x00\x0a8.4.2\x00\x0b\x00\x00\x00";
    assert_eq!(talk_to(&[greeting], mysql).await.0, Verdict::Pass);
    let refusal = b"\x17\x00\x00\x00\xff\x10\x04Too many connections";
    let Verdict::Fail { reason } = talk_to(&[refusal], mysql).await.0 else { panic!() };
    let expected = r#"it is there; what came: "\x17\x00\x00\x00\xff"#;
    assert!(reason.starts_with("step 1, expect not ") && reason.contains(expected), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn without_a_step_what_can_be_dialled_passes() {
    assert_eq!(talk_to(&[], |probe| probe).await.0, Verdict::Pass);
    let refused = service_fn(async |_: Arc<Backend>| Err::<DuplexStream, _>(refusal()));
    assert_eq!(ask(ScriptProbe::new(refused)).await, Verdict::fail("refused"));
}

fn refusal() -> io::Error {
    io::Error::other("refused")
}

#[tokio::test(start_paused = true)]
async fn what_a_step_has_found_is_used_up() {
    let twice = |probe: ScriptProbe<Fake>| probe.expect("ok").expect("ok");
    assert_eq!(talk_to(&[b"ok, ok"], twice).await.0, Verdict::Pass);
    let Verdict::Fail { reason } = talk_to(&[b"ok"], twice).await.0 else { panic!() };
    let expected = r#"step 2, expect "ok": the connection ended; what came: nothing"#;
    assert_eq!(reason, expected);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_used_up_is_dropped_before_something_is_sent() {
    let script = |probe: ScriptProbe<Fake>| {
        probe.expect(Expect::at_least(5)).send("x").expect(Expect::exact("new"))
    };
    assert_eq!(talk_to(&[b"hello", b"new"], script).await.0, Verdict::Pass);
    let steps = script(ScriptProbe::new(Fake::new(duplex(1).0))).script.steps.clone();
    let mut run = Run::new(&steps, 100);
    assert_eq!(run.go_on(), Ok(Todo::Read(100)));
    run.came(b"hello and more");
    assert_eq!(run.go_on(), Ok(Todo::Send(Arc::from(*b"x"))));
    assert_eq!(run.go_on(), Ok(Todo::Read(100)));
    run.came(b"new");
    run.came(b"");
    assert_eq!(run.go_on(), Ok(Todo::Nothing));
}

#[tokio::test(start_paused = true)]
async fn what_must_not_come_counts_up_to_what_is_expected() {
    let script =
        |probe: ScriptProbe<Fake>| probe.expect_not("ERR").expect_not("LOADING").expect("OK");
    assert_eq!(talk_to(&[b"+OK ERR"], script).await.0, Verdict::Pass);
    for (says, step) in [(&b"-ERR, else OK"[..], 1), (b"-LOADING", 2)] {
        let Verdict::Fail { reason } = talk_to(&[says], script).await.0 else { panic!() };
        assert!(reason.starts_with(&format!("step {step}, expect not ")), "{reason}");
    }
}

#[test]
fn what_must_not_come_is_the_same_in_one_piece() {
    let steps = [Step::ExpectNot("ERR".into()), Step::Expect("OK".into())];
    for (came, passes) in [(&b"+OK ERR"[..], true), (b"ERR OK", false)] {
        let mut run = Run::new(&steps, 100);
        assert_eq!(run.go_on(), Ok(Todo::Read(100)));
        run.came(came);
        assert_eq!(run.go_on().is_ok(), passes);
    }
}

#[test]
fn what_must_not_come_alone_needs_something_to_come() {
    for next in [None, Some(Step::Send(Arc::from(*b"x")))] {
        let steps: Vec<_> =
            [Some(Step::ExpectNot("ERR".into())), next].into_iter().flatten().collect();
        let mut run = Run::new(&steps, 100);
        assert_eq!(run.go_on(), Ok(Todo::Read(100)));
        run.came(b"fine");
        assert!(matches!(run.go_on(), Ok(Todo::Nothing | Todo::Send(_))));

        let mut run = Run::new(&steps, 100);
        assert_eq!(run.go_on(), Ok(Todo::Read(100)));
        run.came(b"an ERR");
        assert!(run.go_on().unwrap_err().starts_with("step 1, expect not \"ERR\": it is there"));

        let mut run = Run::new(&steps, 100);
        run.came(b"");
        let reason = run.go_on().unwrap_err();
        assert!(reason.starts_with("step 1, expect not \"ERR\": the connection ended"), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_kept_than_allowed() {
    let noise = vec![b'x'; 20_000];
    let (verdict, _) = talk_to(&[&noise], |probe| probe.expect("y")).await;
    let Verdict::Fail { reason } = verdict else { panic!() };
    assert!(reason.contains("not in 16384 bytes") && reason.len() < 400, "{reason}");
    let few = |probe: ScriptProbe<Fake>| probe.most(4).expect("ab").expect("cdef");
    assert_eq!(talk_to(&[b"abcdef"], few).await.0, Verdict::Pass);
    let Verdict::Fail { reason } = talk_to(&[b"12ab"], |p| p.most(3).expect("ab")).await.0 else {
        panic!()
    };
    assert!(reason.contains(r#"not in 3 bytes; what came: "12a""#), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_keeps_the_time_names_the_step() {
    let (client, mut server) = duplex(100);
    server.write_all(b"-LOADING").await.unwrap();
    let probe = redis(ScriptProbe::new(Fake::new(client))).timeout(Duration::from_millis(500));
    let start = Instant::now();
    let reason = r#"step 2, expect "+PONG\r\n": not within 500ms; what came: "-LOADING""#;
    assert_eq!(ask(probe).await, Verdict::fail(reason));
    assert_eq!(start.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_names_the_step() {
    let (client, server) = duplex(100);
    drop(server);
    let verdict = ask(ScriptProbe::new(Fake::new(client)).send("a").send("b")).await;
    assert!(verdict.reason().starts_with(r#"step 1, send "a": "#), "{verdict:?}");
}
