//! A complete load balancer: TLS ends here, and what is in it goes to several servers.
//!
//! ```text
//! proxy --certs site.pem --backend web1=10.0.0.1:80 --backend web2=10.0.0.2:80 --check tcp
//! ```

mod certs;
mod cli;
mod signals;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use bartizan::net::ErrorChain;
use bartizan::prelude::*;
use cli::{Check, Cli};
use signals::Signals;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceBuilder;
use tracing_subscriber::EnvFilter;

/// A request takes some forty small allocations and a few of 1 to 8 KiB. glibc keeps those of over
/// 1 KiB in no cache of the thread's, which costs a twentieth of a request's instructions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A log that nobody reads must not hold up the proxy: lines are lost then, and counted.
    let (log, _flush_at_exit) = tracing_appender::non_blocking(io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).with_ansi(false).init();

    let setup = Cli::read().map_err(Into::into).and_then(Proxy::new);
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
    cli: Cli,
    certs: CertStore,
    cluster: Cluster,
    drain: Drain,
    workers: Workers,
    control: Runtime,
    signals: Signals,
}

impl Proxy {
    fn new(cli: Cli) -> Result<Self, Box<dyn Error>> {
        let cluster = cli
            .backend
            .iter()
            .fold(Cluster::builder("backends"), |c, b| c.backend(&b.name, &b.address))
            .build()?;
        let drain = Drain::new();
        let descriptors = rlimit::increase_nofile_limit(u64::MAX)?;
        let max_conns = cli.max_conns.unwrap_or_else(|| connections_for(descriptors));
        let workers = Workers::bind(cli.listen.iter().copied(), cli.workers)?
            .with_drain(drain.clone())
            .max_connections(max_conns);
        // Last of what may be refused: loading tells the log, and a refusal is one line.
        let certs = certs::store(&cli)?;
        // Before anybody can read that it listens: a signal from then on must drain it.
        let control = Builder::new_current_thread().enable_all().build()?;
        let signals = control.block_on(async { Signals::catch() })?;
        Ok(Self { cli, certs, cluster, drain, workers, control, signals })
    }

    fn run(self) -> Result<(), Box<dyn Error>> {
        let Self { cli, certs, cluster, drain, workers, control, signals } = self;
        let checks = (cli.check == Check::Tcp).then(|| {
            Checks::tcp()
                .every(cli.check_interval)
                .timeout(cli.check_timeout)
                .rise(cli.rise)
                .fall(cli.fall)
        });
        let tls = TlsTerminateLayer::new(certs.clone()).handshake_timeout(cli.timeout_handshake);
        let client_cert = client_cert(&cli);
        let (grace, checked) = (cli.drain, cluster.clone());
        // Not joined: it waits for signals for as long as the process lives.
        thread::Builder::new().name("control".into()).spawn(move || {
            control.block_on(async {
                let _checks = checks.map(|checks| checked.check(checks));
                signals.obey(drain, grace, certs).await;
            })
        })?;
        workers.run(|worker| {
            let requests = ServiceBuilder::new()
                .layer(HostGuardLayer::new())
                .layer(ForwardedLayer::new())
                .layer(client_cert.clone())
                .layer(
                    BalanceLayer::new(cluster.clone(), RoundRobin::starting_at(worker.index))
                        .retries(cli.retries),
                )
                .layer(HttpPoolLayer::new().response_timeout(cli.timeout_server))
                .service(TcpDial::new().connect_timeout(cli.timeout_connect));
            ServiceBuilder::new().layer(tls.clone()).service(
                ServeHttp::new(requests)
                    .header_timeout(cli.timeout_header)
                    .client_timeout(cli.timeout_client)
                    .keep_alive_timeout(cli.timeout_keepalive),
            )
        })?;
        Ok(())
    }
}

/// Backends may believe what they read of client certificates: what clients send there goes.
fn client_cert(cli: &Cli) -> ClientCertLayer {
    match &cli.client_auth.cn_header {
        Some(field) => ClientCertLayer::only_common_name(field.clone()),
        None => ClientCertLayer::strip_only(),
    }
}

/// A connection takes a descriptor here and one to a backend; some are for everything else.
fn connections_for(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(128) / 2).unwrap_or(usize::MAX).max(1)
}
