//! Asking the agent beside a backend how it is.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::{BoxError, ErrorChain};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tower_service::Service;

use super::ProbeRun;
use super::dialler::{Dialler, dialled};
use crate::clock::A_YEAR;
use crate::{AgentReply, Backend, BackendId, Checks, Verdict};
use reply::{LINE, is_line_end};

mod reply;

pub use reply::{AgentReplyError, parse_agent_reply};

/// A probe that asks an agent beside the backend: HAProxy's `agent-check`.
///
/// It dials, sends what it was told to [`send`](Self::send), and reads one line, or what comes until
/// the agent closes. [`parse_agent_reply`] lists what may be in the line. What the line leaves out
/// stays as it is: only the agent takes back what the agent has said.
///
/// An agent that cannot be reached, takes too long or says nothing that makes sense changes nothing,
/// as with HAProxy, because that is no failure of the server; other checks look for one. It is told
/// once (tracing, target `bartizan_balance`, warn), and anew after the agent has answered.
///
/// Agents mostly listen on a port of their own: see [`ProbeTarget`](crate::ProbeTarget). Give the probe to
/// [`Checks::agent`], which counts as HAProxy does.
#[derive(Clone, Debug)]
pub struct AgentProbe<D> {
    dial: Dialler<D>,
    settings: Arc<Settings>,
    // Whose agents are known not to answer.
    silent: Arc<Mutex<HashSet<BackendId>>>,
}

#[derive(Clone, Debug)]
struct Settings {
    send: Vec<u8>,
    limit: Duration,
    silence_fails: bool,
}

impl<D> AgentProbe<D> {
    /// Dials with `dial`, which has to answer with a stream.
    pub fn new(dial: D) -> Self {
        let settings = Settings { send: Vec::new(), limit: TIMEOUT, silence_fails: false };
        Self { dial: Dialler::new(dial), settings: Arc::new(settings), silent: Arc::default() }
    }

    /// Sends this first: HAProxy's `agent-send`. Nothing is added to it, so that most agents want a
    /// line end in it. Default: nothing.
    pub fn send(mut self, bytes: impl AsRef<[u8]>) -> Self {
        Arc::make_mut(&mut self.settings).send = bytes.as_ref().to_vec();
        self
    }

    /// How long the agent has for all of it. Default: 1 s.
    pub fn timeout(mut self, limit: Duration) -> Self {
        Arc::make_mut(&mut self.settings).limit = limit.min(A_YEAR);
        self
    }

    /// Counts an agent that cannot be reached, or says nothing that makes sense, as a failed check.
    pub fn silence_fails(mut self) -> Self {
        Arc::make_mut(&mut self.settings).silence_fails = true;
        self
    }
}

impl<D> Checks<AgentProbe<D>> {
    /// Checks with an agent, as HAProxy does: one `down` takes the backend out and one `up` brings it
    /// back, unless other checks find it down. It is asked in maintenance, too, because only it can say
    /// `ready`.
    ///
    /// The probe keeps the [time](AgentProbe::timeout) itself. A [`timeout`](Self::timeout) of the
    /// checks that is not longer would be a failure, which takes the backend out.
    pub fn agent(probe: AgentProbe<D>) -> Self {
        let limit = probe.settings.limit.saturating_add(TIMEOUT);
        Self::new(probe).rise(1).fall(1).timeout(limit).in_maintenance(true).of_agent()
    }
}

impl<D> Service<Arc<Backend>> for AgentProbe<D>
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
        let dial = self.dial.call(Arc::clone(&backend));
        let (settings, silent) = (Arc::clone(&self.settings), Arc::clone(&self.silent));
        Box::pin(async move {
            let limit = settings.limit;
            let said = match timeout(limit, async { listen(dialled(dial).await?, &settings).await })
                .await
            {
                Ok(said) => said,
                Err(_) => Err(Verdict::fail(format_args!("no answer within {limit:?}"))),
            };
            let is_news = is_news(&silent, backend.id(), said.is_err());
            Ok(match said {
                Ok(reply) => Verdict::Agent(reply),
                Err(verdict) => {
                    let (backend, reason) = (backend.name(), verdict.reason());
                    if is_news {
                        tracing::warn!(%backend, reason, "the agent says nothing that makes sense");
                    }
                    silence(reason, settings.silence_fails)
                }
            })
        })
    }
}

async fn listen<IO>(mut io: IO, settings: &Settings) -> Result<AgentReply, Verdict>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let line = async {
        io.write_all(&settings.send).await?;
        io.flush().await?;
        let mut line = Vec::new();
        let mut piece = [0; 256];
        while line.len() <= LINE && !line.iter().copied().any(is_line_end) {
            match io.read(&mut piece).await? {
                0 => break,
                read => line.extend_from_slice(&piece[..read]),
            }
        }
        Ok::<_, std::io::Error>(line)
    };
    let line = line.await.map_err(|error| Verdict::of_error(&error))?;
    parse_agent_reply(&line).map_err(|error| Verdict::fail(ErrorChain(&error)))
}

/// What is made of an agent that says nothing that makes sense.
fn silence(reason: &str, fails: bool) -> Verdict {
    let reason = format!("the agent says nothing that makes sense: {reason}");
    match fails {
        true => Verdict::Fail { reason },
        false => Verdict::Agent(AgentReply { reason, ..AgentReply::default() }),
    }
}

/// Whether that the agent of this backend `is_silent` is new.
fn is_news(silent: &Mutex<HashSet<BackendId>>, backend: BackendId, is_silent: bool) -> bool {
    let mut silent = silent.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_silent {
        return silent.remove(&backend);
    }
    if silent.len() >= MOST_SILENT {
        // Some of them have long gone; the others are told again.
        silent.clear();
    }
    silent.insert(backend)
}

/// As for other checks.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Less than a megabyte; the largest clusters have about as many backends.
const MOST_SILENT: usize = 10_000;

#[cfg(test)]
mod tests;
