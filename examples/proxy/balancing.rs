//! How backends are chosen, as the command line asks for it.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bartizan::balance::{
    BalanceFactor, First, HashBy, LeastConn, Maglev, OnDrain, OnPinnedDown, PeakEwma, Policy,
    PowerOfTwo, Random, Rendezvous, RingHash, SourceKey, StickTable, StickyContract,
};
use bartizan::http::{ByCookie, SameSite, StickyCookie, StickyCookieLayer, StickyKeys};
use bartizan::prelude::*;

use crate::affinity::{HashKey, OrTable};
use crate::cli::{
    BalanceArg, Cli, CookieArg, CookieMode, HashKeyArg, OnDown, PolicyName, SameSiteArg, StickyArg,
    StickyBy,
};

/// A cluster, and how its backends are chosen.
#[derive(Clone)]
pub(crate) struct Balanced {
    pub(crate) cluster: Cluster,
    arg: BalanceArg,
    // What has to be one for all workers: it knows of all that is in flight, or is large.
    shared: Option<AnyPolicy>,
    key: HashKey,
    affinity: OrTable,
    cookie: Option<StickyCookieLayer>,
    retries: u32,
    queue: Duration,
}

pub(crate) type AnyPolicy = Arc<dyn Policy + Send + Sync>;

impl Balanced {
    pub(crate) fn new(cli: &Cli, cluster: Cluster) -> Result<Self, Box<dyn Error>> {
        let args = &cli.balancing;
        let sticky = args.sticky.as_ref();
        let hashes = args.balance.policy.hashes();
        let key = args.hash_key.clone().unwrap_or(HashKeyArg::Source);
        let key = HashKey::new(hashes.then_some(key), args.balance.policy == PolicyName::Ketama);
        let affinity = match sticky.map(|sticky| (&sticky.by, contract(sticky))) {
            Some((StickyBy::Source { size, expire }, contract)) => {
                let table = StickTable::new(*size, *expire).by(SourceKey::new());
                OrTable::Table(table.contract(contract).over(HashBy::new(key.clone())))
            }
            _ => OrTable::Key(HashBy::new(key.clone())),
        };
        let cookie = match sticky.map(|sticky| (&sticky.by, sticky)) {
            Some((StickyBy::Cookie(arg), sticky)) => {
                let cookie = cookie(arg)?.contract(contract(sticky));
                Some(StickyCookieLayer::new(cluster.clone(), cookie))
            }
            _ => None,
        };
        Ok(Self {
            cluster,
            arg: args.balance,
            shared: shared(args.balance),
            key,
            affinity,
            cookie,
            retries: cli.retries,
            queue: args.queue.unwrap_or(cli.timeout_connect),
        })
    }

    /// The policy of one worker.
    pub(crate) fn policy(&self, worker: usize) -> AnyPolicy {
        if let Some(shared) = &self.shared {
            return Arc::clone(shared);
        }
        match self.arg.policy {
            PolicyName::Random | PolicyName::PowerOfTwo => match self.arg.draws {
                // HAProxy's `random(N)`.
                Some(draws) => Arc::new(PowerOfTwo::new().draws(draws)),
                None if self.arg.policy == PolicyName::Random => Arc::new(Random::new()),
                None => Arc::new(PowerOfTwo::new()),
            },
            PolicyName::PeakEwma => Arc::new(PeakEwma::new()),
            PolicyName::First => Arc::new(First::new()),
            _ => Arc::new(RoundRobin::starting_at(worker)),
        }
    }

    /// What balances requests; the cookie is read by the layer above.
    pub(crate) fn requests(&self, policy: AnyPolicy) -> BalanceLayer<AnyPolicy, ByCookie<OrTable>> {
        self.layer(policy, ByCookie::over(self.affinity.clone()))
    }

    /// What balances whole connections.
    pub(crate) fn connections(&self, policy: AnyPolicy) -> BalanceLayer<AnyPolicy, OrTable> {
        self.layer(policy, self.affinity.clone())
    }

    fn layer<A>(&self, policy: AnyPolicy, affinity: A) -> BalanceLayer<AnyPolicy, A> {
        let layer = BalanceLayer::new(self.cluster.clone(), policy).affinity(affinity);
        layer.retries(self.retries).queue_timeout(self.queue)
    }

    pub(crate) fn cookie(&self) -> Option<StickyCookieLayer> {
        self.cookie.clone()
    }

    /// Whether the ClientHello has to be read for it.
    pub(crate) fn wants_server_name(&self) -> bool {
        self.key.is_server_name()
    }
}

fn shared(arg: BalanceArg) -> Option<AnyPolicy> {
    let bounded = arg.bounded.map(BalanceFactor::percent);
    let ring = |ring: RingHash| bounded.map_or_else(|| ring.clone(), |f| ring.clone().bounded(f));
    let rendezvous =
        |policy: Rendezvous| bounded.map_or_else(|| policy.clone(), |f| policy.clone().bounded(f));
    Some(match arg.policy {
        PolicyName::LeastConn => Arc::new(LeastConn::new()),
        PolicyName::Ring => Arc::new(ring(RingHash::new())),
        PolicyName::Ketama => Arc::new(ring(RingHash::ketama())),
        PolicyName::Maglev => Arc::new(match bounded {
            Some(factor) => Maglev::new().bounded(factor),
            None => Maglev::new(),
        }),
        PolicyName::Rendezvous => Arc::new(rendezvous(Rendezvous::new())),
        PolicyName::RendezvousTree => Arc::new(rendezvous(Rendezvous::tree())),
        _ => return None,
    })
}

fn contract(sticky: &StickyArg) -> StickyContract {
    let contract = StickyContract::new().on_down(match sticky.on_down {
        OnDown::Repin => OnPinnedDown::Repin,
        OnDown::Fail => OnPinnedDown::Fail,
        OnDown::Wait(longest) => OnPinnedDown::Wait(longest),
    });
    contract.on_drain(if sticky.migrate { OnDrain::Migrate } else { OnDrain::Honour })
}

fn cookie(arg: &CookieArg) -> Result<StickyCookie, Box<dyn Error>> {
    let keys = match &arg.key {
        Some(path) => keys(path)?,
        None => StickyKeys::random(),
    };
    let mut cookie = match arg.mode {
        None | Some(CookieMode::Insert) => StickyCookie::insert(&arg.name, keys)?,
        Some(CookieMode::Rewrite) => StickyCookie::rewrite(&arg.name, keys)?,
        Some(CookieMode::Prefix) => StickyCookie::prefix(&arg.name, keys)?,
    };
    cookie = cookie
        .indirect(arg.indirect)
        .nocache(arg.nocache)
        .postonly(arg.postonly)
        .preserve(arg.preserve)
        .secure(!arg.insecure)
        .http_only(!arg.script);
    cookie = match arg.same_site {
        Some(SameSiteArg::Strict) => cookie.same_site(Some(SameSite::Strict)),
        Some(SameSiteArg::Lax) => cookie.same_site(Some(SameSite::Lax)),
        Some(SameSiteArg::None) => cookie.same_site(Some(SameSite::None)),
        Some(SameSiteArg::Off) => cookie.same_site(None),
        None => cookie,
    };
    cookie = arg.max_idle.into_iter().fold(cookie, StickyCookie::max_idle);
    cookie = arg.max_life.into_iter().fold(cookie, StickyCookie::max_life);
    Ok(arg.domain.iter().try_fold(cookie, |cookie, domain| cookie.domain(domain))?)
}

/// One secret per line, the current one first: further ones are of earlier days.
fn keys(path: &Path) -> Result<StickyKeys, Box<dyn Error>> {
    let about = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = zeroize::Zeroizing::new(std::fs::read(path).map_err(|error| about(&error))?);
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.by_ref().filter(|line| !line.is_empty());
    let current = lines.next().ok_or_else(|| about(&"there is no secret in it"))?;
    Ok(StickyKeys::with_earlier(current, lines).map_err(|error| about(&error))?)
}
