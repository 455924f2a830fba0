//! Asking a backend whether it works.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use crate::Verdict;

mod agent;
mod certificate;
mod dial;
mod dialler;
mod excerpt;
mod script;

pub use agent::{AgentProbe, AgentReplyError, parse_agent_reply};
pub use certificate::{CertificateLife, CertificateProbe, Certificates};
pub use dial::{DialProbe, ProbeFuture};
pub use script::{Expect, ScriptProbe};

/// A probe under way. Boxed: once per check that costs nothing.
pub type ProbeRun = Pin<Box<dyn Future<Output = Result<Verdict, Infallible>> + Send>>;
