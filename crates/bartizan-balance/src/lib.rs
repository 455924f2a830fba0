//! Backends, policies, leases and health checks for tower services.
//!
//! A [`Cluster`] is a named set of [`Backend`]s; its immutable snapshot is a [`Table`]. A
//! [`Policy`] picks from the table. [`Balance`] picks, dials what was picked, and calls what the
//! dialling answered with, for requests and for whole connections alike. [`Checks`] find out which
//! backends may be picked.
//!
//! ```
//! use bartizan_balance::{Cluster, PickContext, Policy, RoundRobin};
//!
//! let web = Cluster::builder("web_servers")
//!     .backend("web1", "192.168.1.10:80")
//!     .backend("web2", "192.168.1.11:80")
//!     .build()?;
//! let policy = RoundRobin::new();
//! let now = tokio::time::Instant::now().into_std();
//! let pick = policy.pick(&web.table(), &PickContext::new(now)).expect("both are eligible");
//! println!("{pick}");
//! # Ok::<_, bartizan_balance::ClusterError>(())
//! ```
//!
//! Health never shows in `poll_ready`: a sick backend is not eligible in the table, and that is all.

mod affinity;
mod backend;
mod balance;
mod checks;
mod clock;
mod cluster;
mod discover;
#[cfg(feature = "dns")]
pub mod dns;
mod error;
mod hash;
mod health;
mod health_layer;
mod hold;
mod key;
mod latency;
mod lease;
mod live;
mod load;
mod min_healthy;
mod outcome;
mod passive;
mod policy;
mod probe;
mod queue;
mod resend;
mod slow_start;
mod splitmix;
mod stick;
mod sync;
mod table;
mod tenure;

pub use affinity::{Affinity, Free, OnDrain, OnPinnedDown, Pin, StickyContract, Tie};
pub use backend::{Backend, BackendId, Limits, Role, State};
pub use balance::{Balance, BalanceFuture, BalanceLayer};
pub use checks::{CheckGuard, Checks, ProbeTarget};
pub use cluster::{Change, Cluster, ClusterBuilder, ClusterError};
pub use discover::FollowGuard;
pub use error::{BadRequest, BalanceError, NotSent, Unanswered};
pub use hash::{BalanceFactor, KetamaKey, Maglev, Rendezvous, RingHash};
pub use health::{
    AgentReply, AgentWeight, CheckState, Condition, Health, HealthChange, HealthChanges,
    HealthCounts, HealthReport, InitState, MissedChanges, OnError, Pace, Verdict,
};
pub use health_layer::{Checked, HealthLayer};
pub use hold::{Hold, Leased};
pub use key::{HashBy, Hashed, Key, KeyFn, KeyOf, SniKey, SourceKey, key_fn};
pub use lease::Lease;
pub use min_healthy::MinHealthy;
pub use outcome::Outcome;
pub use passive::{FailurePercentage, Observe, Outlier, OutlierCounts, RetryAfter, SuccessRate};
pub use policy::{
    First, LeastConn, Observer, PeakEwma, Pick, PickContext, Policy, PowerOfTwo, Prepare, Random,
    Reason, Rejected, Rejection, RoundRobin, Why,
};
pub use probe::{
    AgentProbe, AgentReplyError, CertificateLife, CertificateProbe, Certificates, DialProbe,
    Expect, ProbeFuture, ProbeRun, ScriptProbe, parse_agent_reply,
};
pub use resend::{Resend, SpareRequest};
pub use slow_start::SlowStart;
pub use stick::{
    SharedSticky, SharedTie, StickCount, StickCounter, StickEntries, StickEntry, StickKey,
    StickRate, StickStore, StickTable, StickTableBuilder, Sticky, StickyTie, Tracked,
};
pub use table::{Standing, Table, WeightClass};
pub use tenure::{OnMarkedDown, OnMarkedUp, SessionEnded};

pub use bartizan_net::BoxError;
