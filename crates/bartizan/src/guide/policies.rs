//! Which policy?
//!
//! A [`Policy`] chooses a backend for each request, or for each connection that passes through. If in
//! doubt, take [`LeastConn`]: it needs to know nothing of servers and requests, and errs little where
//! either differ. Take a policy of hashes only where a server has something that others lack, such as
//! a cache, and stickiness where it has something that must not be lost.
//!
//! | policy | takes | when | beware |
//! | --- | --- | --- | --- |
//! | [`RoundRobin`] | the next, by weight | servers and requests are alike | sees no load: a slow server gets as much as a fast one |
//! | [`LeastConn`] | what has the least in flight, by weight | requests, or tunnels, that last differently long | a server that fails fast looks idle: have it checked |
//! | [`Random`] | any, by weight | nothing may be kept between requests | queues form by chance |
//! | [`PowerOfTwo`] | the less loaded of two that are drawn | thousands of servers, many balancers | – |
//! | [`First`] | the first with a free slot | the fewest servers are to be in use | needs [limits](Limits::max); weights count for nothing |
//! | [`PeakEwma`] | the quicker of two that are drawn, by recent latency | servers far apart, or slow at times | latency says little where requests differ by nature |
//! | [`RingHash`] | whom the key belongs to, on a ring | caches, with the fewest keys moved when weights change | shares are as even as the ring has points |
//! | [`Maglev`] | the same, from a table | caches, with the quickest look-up | moves a few more keys |
//! | [`Rendezvous`] | the same, by the highest hash | caches, exact shares, few servers | reads all servers for each pick, unless told to go by a [tree](Rendezvous::tree) |
//!
//! `bounded(125)` on a policy of hashes lets no server have more than 125 % of its share in flight: the
//! keys of one that would are served by the next until it has caught up. It is for keys of which some
//! are asked for far more often than others, and those are most.
//!
//! What a pick costs, by policy and number of backends, is printed by
//! `cargo bench -p bartizan-benches --bench pick` and `--bench hash`. Each [`Pick`] says why it was
//! made: in traces, and with an `ExplainLayer` in a header of the response.
//!
//! # What they do with the same traffic
//!
//! The charts of this page come from a simulation with the crate's own policies and tables, in virtual
//! time and with chance that is seeded:
//!
//! ```text
//! cargo run --release -p bartizan-benches --bin simulate
//! ```
//!
//! It writes them anew and prints the figures. Requests arrive independently of each other (an open
//! loop), a server works at four at a time, and 10 ms of work is the mean. So 10 ms is the least that a
//! mean can be, and 46 ms the 99th percentile of the work alone, which is distributed exponentially.
//!
//! Six scenes: 21 equal servers; servers of speeds and weights 1, 2 and 4; one server five times as slow
//! as its weight says; servers that break down, which is noticed a second later, and come back with a
//! slow start; requests of which one in twenty takes 21 times as long as the others; and six balancers
//! that do not see each other's counts. [`First`] is not shown: all that it does depends on the limits.
//!
#![doc = include_str!("charts/latency.svg")]
//!
//! Latency grows with load, and the more so the less a policy sees of the queues:
//!
#![doc = include_str!("charts/load.svg")]
//!
//! How far above its share the busiest server is. Policies that draw are as uneven as chance is, and the
//! maximum of more servers lies further out; those that take turns are exact for any number:
//!
#![doc = include_str!("charts/imbalance.svg")]
//!
//! # Weights, roles, states
//!
//! A [weight](Backend::with_weight) is a share in relation to the others, from 0 to 256, 1 by default.
//! Every policy goes by it but [`First`]. Weight 0 means [`State::Drain`]: nobody new, but those who
//! are pinned still get there.
//!
//! ```
//! # use bartizan::prelude::*;
//! use std::time::Duration;
//!
//! use bartizan::balance::{Limits, MinHealthy, Role, SlowStart, State};
//!
//! # fn cluster() -> Result<(), Box<dyn std::error::Error>> {
//! let web = Cluster::builder("web")
//!     .add(Backend::new("web1", "192.168.1.10:80".parse()?).with_weight(2))
//!     .add(
//!         Backend::new("web2", "192.168.1.11:80".parse()?)
//!             .with_limits(Limits::none().max(100).queue(20)),
//!     )
//!     .add(Backend::new("spare", "192.168.1.12:80".parse()?).with_role(Role::Backup))
//!     .slow_start(SlowStart::new(Duration::from_secs(30)))
//!     .panic_below(MinHealthy::percent(50))
//!     .queue(1_000)
//!     .build()?;
//!
//! // Before an update of the server:
//! web.update(|change| change.set_state("web2", State::Drain))?;
//! # Ok(()) }
//! # cluster().unwrap();
//! ```
//!
//! A [`Role::Backup`] is used when no active backend is left, the first of them alone unless
//! [`all_backups`](crate::balance::ClusterBuilder::all_backups) says otherwise.
//! [`panic_below`](crate::balance::ClusterBuilder::panic_below) doubts the checks instead: while fewer
//! backends than that are well, all active ones are used. Without it, the last one that is well gets
//! everything, as with HAProxy.
//!
//! # Slow start
//!
//! A server that comes back has empty caches and cold code. With a [`SlowStart`] its weight, and its
//! limit if it has one, grow from next to nothing over a window. Policies of hashes move its keys back
//! one by one, always the same ones first, so that each moves once. A server of ten, with a slow start
//! of 20 s and, at the top, with none:
//!
#![doc = include_str!("charts/recovery.svg")]
//!
//! # Keys
//!
//! A policy of hashes asks for a key: [`SourceKey`](crate::balance::SourceKey),
//! [`SniKey`](crate::balance::SniKey), or whatever [`key_fn`](crate::balance::key_fn) makes of a request,
//! wrapped in a [`HashBy`](crate::balance::HashBy). Requests without one are spread in turn. Keys of a
//! server that leaves go elsewhere, and come back with it; the keys of the others should stay, or all
//! caches are cold at once. Left, the busiest of 20 servers where keys are as popular as Zipf's law
//! says; right, the keys that moved though they need not have, when one of the 20 left. Round robin
//! stands for not hashing at all:
//!
#![doc = include_str!("charts/keys.svg")]
//!
//! The hash is the same on every machine and in every version, so several instances with the same
//! backends agree. It is not HAProxy's, nor nginx's: whoever changes over has each key move once.
//!
//! # Limits and queues
//!
//! [`Limits::max`] is how many requests a backend takes at a time; they count to the end of the body,
//! and connections until they are closed. When all are full, requests wait in the call for the first
//! slot that becomes free, in the order of their arrival, and are counted against the cluster's
//! [`queue`](crate::balance::ClusterBuilder::queue). A request whose key or cookie names a backend waits
//! for that one, in a queue of at most [`Limits::queue`]. With [`Limits::min`], a backend takes less
//! while there is little to do.
//!
//! # Stickiness
//!
//! A hash is affinity: most clients return to their server, until weights or servers change. Where they
//! have to return, remember them. A [`StickTable`] keeps keys and backends for a time, bounded in number,
//! for TLS that passes through as well as for HTTP; a cookie keeps them at the client, and survives a
//! restart. Both follow a [`StickyContract`]:
//!
//! | the pinned backend | default | otherwise |
//! | --- | --- | --- |
//! | is down, or cannot be dialled | [`OnPinnedDown::Repin`]: the policy chooses another, for good | `Fail`: an error, the pin stays; `Wait`: for so long, then another |
//! | drains, or has weight 0 | [`OnDrain::Honour`]: it is used | `Migrate`: the policy chooses another |
//! | is full | the request waits for it; beyond [`Limits::queue`] it goes to another | – |
//!
//! HAProxy's `stick-table type ip size 200k expire 30m` with `stick on src`, for requests or for
//! connections that pass:
//!
//! ```
//! # use bartizan::prelude::*;
//! use std::time::Duration;
//!
//! use bartizan::balance::{LeastConn, OnDrain, SourceKey, StickTable, StickyContract};
//!
//! # fn layer(web: Cluster) {
//! let table = StickTable::new(204_800, Duration::from_secs(30 * 60));
//! let contract = StickyContract::new().on_drain(OnDrain::Migrate);
//! let balance = BalanceLayer::new(web, LeastConn::new())
//!     .affinity(table.by(SourceKey::new()).contract(contract));
//! # let _ = balance;
//! # }
//! ```
//!
//! For a cookie, `bartizan::http::StickyCookieLayer` reads it above the balancer, and the affinity
//! `ByCookie` follows it; put over a table, the cookie wins over the table, and the
//! table over the policy. Where requests of one client come at the same moment, before anything is
//! known of it, they agree on one backend.
//!
//! # Names elsewhere
//!
//! | HAProxy | nginx | Envoy | here |
//! | --- | --- | --- | --- |
//! | `roundrobin`, `static-rr` | the default | `ROUND_ROBIN` | [`RoundRobin`] |
//! | `leastconn` | `least_conn` | `LEAST_REQUEST`, `FULL_SCAN` | [`LeastConn`] |
//! | `random(1)` | `random` | `RANDOM` | [`Random`] |
//! | `random` | `random two least_conn` | `LEAST_REQUEST` | [`PowerOfTwo`] |
//! | `first` | – | – | [`First`] |
//! | – | `least_time` | – | [`PeakEwma`] |
//! | `hash-type consistent` | `hash … consistent` | `RING_HASH` | [`RingHash`] |
//! | – | – | `MAGLEV` | [`Maglev`] |
//! | – (Caddy's `*_hash`, Traefik's `hrw`) | – | – | [`Rendezvous`] |
//! | `hash-balance-factor` | – | `hash_balance_factor` | `bounded` |
//! | `source`, `hdr()`, `uri` | `ip_hash`, `hash` | `hash_policy` | [`HashBy`](crate::balance::HashBy) |
//! | `weight` | `weight` | `load_balancing_weight` | [`Backend::with_weight`] |
//! | `backup`, `option allbackups` | `backup` | priorities | [`Role`], [`all_backups`](crate::balance::ClusterBuilder::all_backups) |
//! | – | – | `healthy_panic_threshold` | [`MinHealthy`] |
//! | `slowstart` | `slow_start` | `slow_start_config` | [`SlowStart`] |
//! | `maxconn`, `minconn`, `maxqueue` | `max_conns` | `max_requests` | [`Limits`] |
//! | `fullconn` | – | – | [`full_load`](crate::balance::ClusterBuilder::full_load) |
//! | `set server … state` | `drain`, `down` | health status `DRAINING` | [`State`] |
//! | `stick-table`, `stick on` | `sticky learn` | – | [`StickTable`] |
//! | `cookie … insert` | `sticky cookie` | `stateful_session` | a cookie |
//! | `option redispatch`, `option persist` | – | `strict` | [`OnPinnedDown`] |
//!
//! `tests/tests/interop_balance.rs` sends the same traffic through HAProxy and through the `proxy`
//! example, and compares shares, the keys that move, and the order of those who wait.

#[cfg(doc)]
use crate::balance::{
    Backend, First, LeastConn, Limits, Maglev, MinHealthy, OnDrain, OnPinnedDown, PeakEwma, Pick,
    Policy, PowerOfTwo, Random, Rendezvous, RingHash, Role, RoundRobin, SlowStart, State,
    StickTable, StickyContract,
};
