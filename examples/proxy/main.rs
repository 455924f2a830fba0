//! A complete load balancer: TLS ends here, ends here and starts again, or passes through to servers
//! that have certificates of their own, as each name wants it.
//!
//! ```text
//! proxy --certs site.pem --backend web1=10.0.0.1:80 --backend web2=10.0.0.2:80 --check tcp
//! ```

mod affinity;
mod balancing;
mod certs;
mod checks;
mod cli;
mod follow;
mod health;
mod lint;
mod routes;
mod signals;
mod stack;
mod upstream;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use balancing::{Balanced, sticky_keys};
use bartizan::net::ErrorChain;
use bartizan::prelude::*;
use checks::Checking;
use cli::{Cli, Mode};
use follow::Following;
use routes::Routed;
use signals::Signals;
use stack::Parts;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;
use upstream::Upstream;

/// A request takes some forty small allocations and a few of 1 to 8 KiB. glibc keeps those of over
/// 1 KiB in no cache of the thread's, which costs a twentieth of a request's instructions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A log that nobody reads must not hold up the proxy: lines are lost then, and counted.
    let (log, _flush_at_exit) = tracing_appender::non_blocking(io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).with_ansi(false).init();

    let setup = Cli::read().map_err(Into::into).and_then(|cli| {
        if cli.passthrough.lint_routes {
            std::process::exit(lint::run(&cli)?);
        }
        Proxy::new(cli)
    });
    let proxy = match setup {
        Ok(proxy) => proxy,
        Err(error) => {
            eprintln!("proxy: {}", ErrorChain(&*error));
            return ExitCode::from(2);
        }
    };
    for addr in proxy.workers.local_addrs() {
        // Whoever started it may have closed the pipe: no reason not to serve.
        let _ = writeln!(io::stdout(), "listening on {addr}");
    }
    match proxy.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {}", ErrorChain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Everything that can be wrong has been found out once it exists.
struct Proxy {
    parts: Parts,
    certs: Option<CertStore>,
    upstream: Option<Upstream>,
    follow: Following,
    checking: Checking,
    drain: Drain,
    workers: Workers,
    control: Runtime,
    signals: Signals,
}

impl Proxy {
    fn new(cli: Cli) -> Result<Self, Box<dyn Error>> {
        let name = cli.upstream.name.as_deref();
        let own = name.filter(|_| cli.mode == Mode::Reencrypt);
        let cluster = health::cluster(&cli, "backends");
        let cluster =
            cli.backend.iter().fold(cluster, |c, backend| backend.add_to(c, own)).build()?;
        let follow = Following::new(&cli, &cluster, own)?;
        let routed = Routed::of(&cli)?;
        let upstream = Upstream::new(&cli)?;
        let originate = upstream.as_ref().map(|upstream| upstream.layer.clone());
        let checking = Checking::new(&cli, &cluster, &routed, originate.as_ref())?;
        let keys = sticky_keys(&cli)?;
        let routed = routed.into_iter().map(|routed| {
            Balanced::new(&cli, routed.cluster.clone(), &keys).map(|balanced| (routed, balanced))
        });
        let routed = routed.collect::<Result<_, _>>()?;
        let own = Balanced::new(&cli, cluster, &keys)?;
        let drain = Drain::new();
        let descriptors = rlimit::increase_nofile_limit(u64::MAX)?;
        let max_conns = cli.max_conns.unwrap_or_else(|| connections_for(descriptors, cli.passes()));
        let workers = Workers::bind(cli.listen.iter().copied(), cli.workers)?
            .with_drain(drain.clone())
            .max_connections(max_conns);
        if !cli.terminates() && !cli.certs.is_empty() {
            tracing::warn!("--certs has no effect: TLS ends nowhere here");
        }
        // Last of what may be refused: loading tells the log, and a refusal is one line.
        let certs = if cli.terminates() { Some(certs::store(&cli)?) } else { None };
        // Before anybody can read that it listens: a signal from then on must drain it.
        let control = Builder::new_current_thread().enable_all().build()?;
        let signals = control.block_on(async { Signals::catch() })?;
        let parts = Parts::new(cli, certs.clone(), originate, own, routed)?;
        Ok(Self { parts, certs, upstream, follow, checking, drain, workers, control, signals })
    }

    fn run(self) -> Result<(), Box<dyn Error>> {
        let Self { parts, certs, upstream, follow, checking, drain, workers, control, signals } =
            self;
        let grace = parts.grace();
        let upstream = [upstream, checking.upstream.clone()];
        // Before the first connection: a backend that is yet to prove itself must not get it.
        let checks = {
            let _runtime = control.enter();
            (checking.start(), follow.start())
        };
        // Not joined: it waits for signals for as long as the process lives.
        thread::Builder::new().name("control".into()).spawn(move || {
            control.block_on(signals.obey(drain, grace, (certs, upstream)));
            drop(checks);
        })?;
        workers.run(|worker| parts.stack(worker.index))?;
        Ok(())
    }
}

/// A connection takes a descriptor here and one to a backend; some are for everything else, and for
/// the pipes through which bulk passes.
fn connections_for(descriptors: u64, passes: bool) -> usize {
    let others = if passes { 128 + 512 } else { 128 };
    usize::try_from(descriptors.saturating_sub(others) / 2).unwrap_or(usize::MAX).max(1)
}
