//! Probes that talk: send this, expect that.

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::BoxError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::ProbeRun;
use super::dialler::{Dialler, dialled};
use crate::clock::A_YEAR;
use crate::{Backend, Verdict};
use run::{Run, Step, Todo};

mod expect;
mod run;

pub use expect::Expect;

/// A probe that dials and then talks as a script says: HAProxy's `tcp-check`.
///
/// Redis:
///
/// ```
/// use bartizan_balance::{Checks, ScriptProbe};
/// use bartizan_net::TcpDial;
///
/// let probe = ScriptProbe::new(TcpDial::new()).send("PING\r\n").expect("+PONG\r\n");
/// let checks = Checks::new(probe);
/// ```
///
/// SMTP (RFC 5321), with all of the banner, and a polite end:
///
/// ```
/// # use bartizan_balance::{Expect, ScriptProbe};
/// # use bartizan_net::TcpDial;
/// let probe = ScriptProbe::new(TcpDial::new())
///     .expect(Expect::starts_with("220"))
///     .expect("\r\n")
///     .send("QUIT\r\n")
///     .expect(Expect::starts_with("221"));
/// ```
///
/// MySQL and MariaDB, whose greeting is a packet with three bytes of length, the number 0, and then
/// the version 10 of the protocol; 255 there is an error, such as too many connections:
///
/// ```
/// # use bartizan_balance::ScriptProbe;
/// # use bartizan_net::TcpDial;
/// let greeting = regex::bytes::Regex::new(r"(?s-u)^...\x00\x0a")?;
/// let refusal = regex::bytes::Regex::new(r"(?s-u)^...\x00\xff")?;
/// let probe = ScriptProbe::new(TcpDial::new()).expect_not(refusal).expect(greeting);
/// # Ok::<_, regex::Error>(())
/// ```
///
/// Without a step, what can be dialled passes. After the last step, the connection is closed.
///
/// # What a step sees
///
/// - An expected thing is waited for until it comes, cannot come any more, or
///   [`most`](Self::most) bytes have come without it. What comes up to its end is used up: the next
///   step looks behind it. (With HAProxy, steps that expect and follow each other all look at the
///   same bytes from the first one on.)
/// - What must not come fails the probe if it comes before the end of what the next step expects.
///   If the script sends instead, or ends, what comes first is looked at, and something has to
///   come; that may be any part of an answer, as with HAProxy, so let an expected thing follow.
/// - Before something is sent, what has been read and not used up is dropped, as with HAProxy.
///
/// A failure names the step, counted from 1, and shows what came, shortened and escaped.
#[derive(Clone, Debug)]
pub struct ScriptProbe<D> {
    dial: Dialler<D>,
    script: Arc<Script>,
}

#[derive(Clone, Debug)]
struct Script {
    steps: Vec<Step>,
    most: usize,
    limit: Duration,
}

impl<D> ScriptProbe<D> {
    /// Dials with `dial`, which has to answer with a stream.
    pub fn new(dial: D) -> Self {
        let script = Script { steps: Vec::new(), most: MOST, limit: A_YEAR };
        Self { dial: Dialler::new(dial), script: Arc::new(script) }
    }

    /// Sends these bytes next.
    pub fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Send(bytes.as_ref().into()))
    }

    /// Expects this next.
    pub fn expect(self, expect: impl Into<Expect>) -> Self {
        self.step(Step::Expect(expect.into()))
    }

    /// Fails if this comes next.
    pub fn expect_not(self, expect: impl Into<Expect>) -> Self {
        self.step(Step::ExpectNot(expect.into()))
    }

    /// How many bytes that no step has used up are kept. Default: 16 KiB, HAProxy's buffer. At
    /// least 1.
    pub fn most(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.script).most = bytes;
        self
    }

    /// Fails after this time, dialling included, and names the step. Default: never, because
    /// [`Checks::timeout`](crate::Checks::timeout) ends probes as well; it cannot tell the step. It
    /// has to be the longer one.
    pub fn timeout(mut self, limit: Duration) -> Self {
        Arc::make_mut(&mut self.script).limit = limit.min(A_YEAR);
        self
    }

    fn step(mut self, step: Step) -> Self {
        Arc::make_mut(&mut self.script).steps.push(step);
        self
    }
}

impl<D> Service<Arc<Backend>> for ScriptProbe<D>
where
    D: Service<Arc<Backend>, Error: Into<BoxError>>,
    D::Response: AsyncRead + AsyncWrite + Unpin + Send,
    D::Future: Send + 'static,
{
    type Response = Verdict;
    type Error = Infallible;
    type Future = ProbeRun;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.dial.poll_ready(cx).map(Ok)
    }

    fn call(&mut self, backend: Arc<Backend>) -> ProbeRun {
        let dial = self.dial.call(backend);
        let script = Arc::clone(&self.script);
        Box::pin(async move {
            let deadline = Instant::now() + script.limit;
            Ok(match timeout_at(deadline, dialled(dial)).await {
                Ok(Ok(io)) => talk(io, &script, deadline).await,
                Ok(Err(verdict)) => verdict,
                Err(_) => Verdict::fail(format_args!("no connection within {:?}", script.limit)),
            })
        })
    }
}

async fn talk<IO>(mut io: IO, script: &Script, deadline: Instant) -> Verdict
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut run = Run::new(&script.steps, script.most);
    let mut piece = vec![0; PIECE];
    loop {
        let todo = match run.go_on() {
            Ok(Todo::Nothing) => return Verdict::Pass,
            Ok(todo) => todo,
            Err(reason) => return Verdict::Fail { reason },
        };
        let done = timeout_at(deadline, act(&mut io, &todo, &mut piece)).await;
        let reading = matches!(todo, Todo::Read(_));
        let reason = |problem: &dyn Display| Verdict::fail(run.because(problem, reading));
        match done {
            Ok(Ok(read)) if reading => run.came(&piece[..read]),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return reason(&error),
            Err(_) => return reason(&format_args!("not within {:?}", script.limit)),
        }
    }
}

/// Returns how much was read.
async fn act<IO>(io: &mut IO, todo: &Todo, piece: &mut [u8]) -> io::Result<usize>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match todo {
        Todo::Send(bytes) => {
            io.write_all(bytes).await?;
            io.flush().await?;
            Ok(0)
        }
        Todo::Read(most) => {
            let most = piece.len().min(*most);
            io.read(&mut piece[..most]).await
        }
        Todo::Nothing => Ok(0),
    }
}

/// `tune.bufsize` of HAProxy, which bounds what its `tcp-check` sees.
const MOST: usize = 16 * 1024;

/// Answers to probes are short, and a longer one comes in several pieces.
const PIECE: usize = 1024;

#[cfg(test)]
mod tests;
