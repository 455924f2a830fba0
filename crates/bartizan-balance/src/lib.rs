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
//! let pick = policy.pick(&web.table(), &PickContext::new()).expect("both are eligible");
//! println!("{}: {}", pick.backend.name(), pick.reason);
//! # Ok::<_, bartizan_balance::ClusterError>(())
//! ```
//!
//! Health never shows in `poll_ready`: a sick backend is not eligible in the table, and that is all.

mod backend;
mod balance;
mod checks;
mod cluster;
mod error;
mod health;
mod hold;
mod lease;
mod policy;
mod probe;
mod resend;
mod round_robin;
mod table;

pub use backend::{Backend, BackendId};
pub use balance::{Balance, BalanceFuture, BalanceLayer};
pub use checks::{CheckGuard, Checks};
pub use cluster::{Cluster, ClusterBuilder, ClusterError};
pub use error::{BalanceError, NotSent, Unanswered};
pub use health::{Health, InitState, Verdict};
pub use hold::{Hold, Leased};
pub use lease::Lease;
pub use policy::{Pick, PickContext, Policy, Reason};
pub use probe::{DialProbe, ProbeFuture};
pub use resend::{Resend, SpareRequest};
pub use round_robin::RoundRobin;
pub use table::Table;

pub use bartizan_net::BoxError;
