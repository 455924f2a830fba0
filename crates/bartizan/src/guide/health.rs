//! Health: which backends are used, who finds that out, and what happens when it changes.
//!
//! Three things are known of a backend, apart from each other: what checks find, what requests show,
//! and what the operator wants. One [state machine](crate::balance::Condition) makes one condition of
//! them; all of its transitions are in the tables there, which the tests read. Health is never in
//! `poll_ready`, and no backend is forgotten because it is sick.
//!
//! # Checks
//!
//! A check is a [probe](#probes) and a rhythm. Names and defaults are HAProxy's:
//!
//! | setting | default | HAProxy |
//! | --- | --- | --- |
//! | [`every`](Checks::every) | 2 s | `inter` |
//! | [`fast`](Checks::fast) | as `every` | `fastinter`: verdicts speak against the state |
//! | [`down`](Checks::down) | as `every` | `downinter`: down, and nothing speaks against it |
//! | [`timeout`](Checks::timeout) | 1 s | `timeout check` |
//! | [`rise`](Checks::rise), [`fall`](Checks::fall) | 2, 3 | the same |
//! | [`init_state`](Checks::init_state) | fully up | `init-state` |
//! | [`jitter`](Checks::jitter) | 0 % | `spread-checks` |
//! | [`max_concurrent`](Checks::max_concurrent) | 500 | `tune.max-checks-per-thread` |
//! | [`target`](Checks::target) | the backend itself | `addr`, `port`, `check-sni` |
//!
//! A dead backend that refuses connections is left out after `fall` checks: from the first that
//! fails, `(fall - 1) × every` later.
//!
//! ```
//! # use bartizan::prelude::*;
//! # async fn check(web: Cluster) {
//! use std::time::Duration;
//!
//! let checks = Checks::tcp()
//!     .every(Duration::from_secs(2))
//!     .fast(Duration::from_millis(500))
//!     .rise(1)
//!     .fall(2);
//! let _checks = web.check(checks);
//! # }
//! ```
//!
//! The checks run for as long as the guard lives, and no longer than the cluster. Several sets may
//! check one cluster: a backend is as well as the worst of them finds it. A server that is in
//! several clusters needs one set: in the others, add a backend that
//! [tracks](crate::balance::Backend::tracking) it.
//!
//! # Probes
//!
//! A probe is any tower service from backends to [verdicts](crate::balance::Verdict). Those that are
//! there are made of dial services: the layers that traffic has, TLS and PROXY headers, are under
//! them as well.
//!
//! | probe | passes if | HAProxy |
//! | --- | --- | --- |
//! | [`DialProbe`](crate::balance::DialProbe) | the dial succeeds: TCP, or the whole handshake of a TLS stack | `check`, `check-ssl` |
//! | [`CertificateProbe`](crate::balance::CertificateProbe) | the same, and the certificate is good for some days | – |
//! | [`CertificateCheckLayer`](crate::tls::CertificateCheckLayer) | a server that TLS passes through to shows the right certificate | – |
//! | [`HttpProbe`] | the answer is as expected: status, fields, body | `option httpchk`, `http-check` |
//! | [`GrpcProbe`] | `grpc.health.v1` says `SERVING` | – |
//! | [`ScriptProbe`](crate::balance::ScriptProbe) | what is sent is answered as expected | `option tcp-check` |
//! | [`AgentProbe`](crate::balance::AgentProbe) | an agent sets state, weight and limit | `agent-check` |
//!
//! ```
//! # use bartizan::prelude::*;
//! # fn probe() -> Result<(), Box<dyn std::error::Error>> {
//! use bartizan::http::{Expect, HttpProbe};
//!
//! let probe = HttpProbe::new(TcpDial::new())
//!     .path("/health")?
//!     .expect(Expect::status(200..=299))
//!     .expect(Expect::body("ready"));
//! let checks = Checks::new(probe);
//! # let _ = checks; Ok(()) }
//! # probe().unwrap();
//! ```
//!
//! Your own may ask whatever it likes:
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::Arc;
//!
//! use bartizan::balance::Verdict;
//! use bartizan::prelude::*;
//!
//! let not_too_busy = tower::service_fn(|backend: Arc<Backend>| async move {
//!     let busy = backend.in_flight() > 1000;
//!     let verdict = if busy { Verdict::fail("has its hands full") } else { Verdict::Pass };
//!     Ok::<_, Infallible>(verdict)
//! });
//! let checks = Checks::new(not_too_busy);
//! # let _ = checks;
//! ```
//!
//! # What requests show
//!
//! [`observe`](crate::balance::ClusterBuilder::observe) is HAProxy's: so many errors in a row count
//! as a failed check, or as what `on-error` says. It needs checks.
//!
//! [`outlier`](crate::balance::ClusterBuilder::outlier) is Envoy's outlier detection: a backend that
//! answers worse than it should is ejected for a time. Two things differ. It is said how many
//! backends have to **stay**, in whole backends, exactly, at any time and together with checks and
//! drains: Envoy's default of ejecting 10 % ejects nobody in a cluster of 3. And an ejected backend
//! comes back on trial: one request at a time, first such that could be sent again.
//!
//! ```
//! # use bartizan::prelude::*;
//! # fn cluster() -> Result<Cluster, Box<dyn std::error::Error>> {
//! use bartizan::balance::{MinHealthy, Observe, Outlier};
//!
//! let web = Cluster::builder("web")
//!     .backend("web1", "192.168.1.10:80")
//!     .backend("web2", "192.168.1.11:80")
//!     .backend("web3", "192.168.1.12:80")
//!     .observe(Observe::layer7())
//!     .outlier(Outlier::new().keep(MinHealthy::percent(50).at_least(1)))
//!     .build()?;
//! # Ok(web) }
//! # cluster().unwrap();
//! ```
//!
//! # When a backend goes down
//!
//! New requests go elsewhere at once. What is in flight there goes on, which is right for a server
//! that refuses connections while it finishes what it has, and wrong for one that is frozen:
//! with [`OnMarkedDown::ShutdownSessions`](crate::balance::OnMarkedDown::ShutdownSessions) it ends,
//! and what may be sent again goes to another backend. Connections that the pool has kept to it are
//! not used again in either case.
//!
//! # Who is told
//!
//! [`Cluster::health`] gives the condition of a backend, since when, and why, in a sentence;
//! [`Cluster::health_changes`] is a stream of all changes. Each is also a tracing event (target
//! `bartizan_balance`): `backend is down` (warn) with the reason, `backend is up` (info), and so on.
//!
//! ```
//! # use bartizan::prelude::*;
//! # async fn watch(web: Cluster) {
//! let mut changes = web.health_changes();
//! while let Some(change) = changes.recv().await {
//!     match change {
//!         Ok(change) => println!("{change}"),
//!         Err(missed) => println!("{missed}"),
//!     }
//! }
//! # }
//! ```
//!
//! When no backend is left, requests are answered with 503 at once; see
//! [`panic_below`](crate::balance::ClusterBuilder::panic_below) for using those that seem down
//! rather than none.

#[cfg(doc)]
use crate::prelude::*;
