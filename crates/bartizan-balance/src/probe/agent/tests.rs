use std::io;
use std::net::SocketAddr;

use bartizan_net::{Address, TcpDial};
use bartizan_testkit::misbehave::refused_addr;
use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    CheckGuard, Cluster, Condition, HealthChange, HealthChanges, PickContext, Policy, ProbeTarget,
    RoundRobin, State,
};

/// An agent on loopback that says the same to everyone, until it is told to say something else.
struct Agent {
    addr: SocketAddr,
    says: Arc<Mutex<&'static str>>,
    // What it is expected to be sent before it answers.
    wants: &'static str,
}

impl Agent {
    async fn start(says: &'static str) -> Self {
        Self::wanting("", says).await
    }

    async fn wanting(wants: &'static str, says: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new(says));
        let line = Arc::clone(&says);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut sent = vec![0; wants.len()];
                client.read_exact(&mut sent).await.unwrap();
                assert_eq!(sent, wants.as_bytes());
                let line = *line.lock().unwrap();
                // Who has read the line may have closed already.
                let _ = client.write_all(line.as_bytes()).await;
            }
        });
        Self { addr, says, wants }
    }

    fn say(&self, line: &'static str) {
        *self.says.lock().unwrap() = line;
    }

    fn probe(&self) -> AgentProbe<TcpDial> {
        AgentProbe::new(TcpDial::new()).timeout(secs(60)).send(self.wants)
    }

    /// The backend of which it is the agent, on the same port.
    fn backend(&self, name: &str, weight: u16) -> Arc<Backend> {
        Arc::new(Backend::new(name, Address::from(self.addr)).with_weight(weight))
    }
}

fn cluster(backends: impl IntoIterator<Item = Arc<Backend>>) -> Cluster {
    let web = Cluster::builder("web").build().unwrap();
    web.update(|change| change.replace_all(backends)).unwrap();
    web
}

/// Soon again, and patient: nothing here depends on the time.
fn check<D>(web: &Cluster, probe: AgentProbe<D>) -> CheckGuard
where
    AgentProbe<D>: Service<Arc<Backend>, Response = Verdict, Error = Infallible, Future = ProbeRun>,
    D: Clone + Send + Sync + 'static,
{
    web.check(Checks::agent(probe).every(Duration::from_millis(5)))
}

async fn next(changes: &mut HealthChanges) -> HealthChange {
    timeout(secs(30), changes.recv()).await.unwrap().unwrap().unwrap()
}

async fn until(web: &Cluster, is: impl Fn() -> bool) {
    let mut versions = web.versions();
    while !is() {
        timeout(secs(30), versions.changed()).await.unwrap().unwrap();
    }
}

fn shares(web: &Cluster, picks: usize) -> [usize; 2] {
    let policy = RoundRobin::new();
    let context = PickContext::new(crate::clock::now());
    let mut shares = [0; 2];
    for _ in 0..picks {
        let pick = policy.pick(&web.table(), &context).unwrap();
        shares[usize::from(&**pick.backend.name() != "a")] += 1;
    }
    shares
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test]
async fn a_percentage_is_of_the_configured_weight() {
    let (agent, other) = (Agent::start("100%\n").await, Agent::start("100%\n").await);
    let (a, b) = (agent.backend("a", 4), other.backend("b", 4));
    let web = cluster([Arc::clone(&a), b]);
    let _checks = check(&web, agent.probe());
    for (line, weight, expected) in
        [("50%\n", 2, [10, 20]), ("75%\n", 3, [12, 16]), ("200%\n", 8, [20, 10]), ("0%", 0, [0, 9])]
    {
        agent.say(line);
        until(&web, || a.weight() == weight).await;
        assert_eq!(shares(&web, expected.iter().sum()), expected, "{line}");
    }
}

#[tokio::test]
async fn an_agent_drains_maintains_and_makes_ready() {
    let agent = Agent::start("ready\n").await;
    let web = cluster([agent.backend("a", 1)]);
    let mut changes = web.health_changes();
    let _checks = check(&web, agent.probe());
    for (line, condition) in [
        ("drain\n", Condition::Draining),
        ("MAINT\n", Condition::Maintenance),
        ("ready\n", Condition::Up),
    ] {
        agent.say(line);
        let change = next(&mut changes).await;
        assert_eq!((change.to, &*change.reason), (condition, "its agent wants it so"));
    }
}

#[tokio::test]
async fn an_agent_takes_the_backend_down_and_up_and_says_why() {
    let agent = Agent::start("stopped # disk is full\n").await;
    let web = cluster([agent.backend("a", 1)]);
    let mut changes = web.health_changes();
    let _checks = check(&web, agent.probe());
    let change = next(&mut changes).await;
    assert_eq!(change.to, Condition::Down);
    assert_eq!(&*change.reason, "the agent says stopped: disk is full");
    agent.say("up\n");
    assert_eq!(next(&mut changes).await.to, Condition::Up);
    agent.say("down\n");
    assert_eq!(&*next(&mut changes).await.reason, "the agent says down");
}

#[tokio::test]
async fn an_agent_on_its_own_port_limits_and_is_sent_what_it_wants() {
    let agent = Agent::wanting("web1\n", "maxconn:7 up\r\n").await;
    let a = Arc::new(Backend::new("a", Address::from(refused_addr())));
    let web = cluster([Arc::clone(&a)]);
    let probe = AgentProbe::new(TcpDial::new()).timeout(secs(60)).send(agent.wants);
    let port = ProbeTarget::new().port(agent.addr.port());
    let checks = Checks::agent(probe).every(Duration::from_millis(5)).target(port);
    let _checks = web.check(checks);
    until(&web, || a.limits() == crate::Limits::none().max(7)).await;
    agent.say("maxconn:0\n");
    until(&web, || !a.limits().is_limited()).await;
}

/// A dial service to an agent that says this, and closes.
fn says(
    line: &'static [u8],
) -> impl Service<Arc<Backend>, Response = DuplexStream, Error = io::Error, Future: Send> + Clone {
    service_fn(move |_| async move {
        let (client, mut agent) = duplex(1 << 16);
        agent.write_all(line).await?;
        Ok(client)
    })
}

async fn ask<D>(probe: AgentProbe<D>) -> Verdict
where
    AgentProbe<D>: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
{
    let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 1)));
    let Ok(verdict) = probe.oneshot(Arc::new(Backend::new("a", address))).await;
    verdict
}

#[tokio::test(start_paused = true)]
async fn a_line_ends_with_its_end_or_with_the_connection() {
    let drain = AgentReply { state: Some(State::Drain), ..AgentReply::default() };
    for line in [&b"drain"[..], b"drain\n", b"drain\r\nmaint\r\n"] {
        assert_eq!(ask(AgentProbe::new(says(line))).await, Verdict::Agent(drain.clone()));
    }
    // One that stays open after its line.
    let open = Arc::new(Mutex::new(Vec::new()));
    let dial = service_fn(move |_: Arc<Backend>| {
        let open = Arc::clone(&open);
        async move {
            let (client, mut agent) = duplex(100);
            agent.write_all(b"drain\n").await?;
            open.lock().unwrap().push(agent);
            Ok::<_, io::Error>(client)
        }
    });
    assert_eq!(ask(AgentProbe::new(dial)).await, Verdict::Agent(drain));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_sensible_changes_nothing_unless_that_is_a_failure() {
    let refused = service_fn(async |_| Err::<DuplexStream, _>(io::Error::other("refused")));
    let hangs = service_fn(async |_| std::future::pending::<io::Result<DuplexStream>>().await);
    async fn both<D>(probe: AgentProbe<D>) -> (Verdict, Verdict)
    where
        AgentProbe<D>: Service<Arc<Backend>, Response = Verdict, Error = Infallible> + Clone,
    {
        (ask(probe.clone()).await, ask(probe.silence_fails()).await)
    }
    for (verdicts, reason) in [
        (both(AgentProbe::new(refused)).await, "refused"),
        (both(AgentProbe::new(hangs)).await, "no answer within 1s"),
        (both(AgentProbe::new(says(b""))).await, "the agent's line is empty"),
        (both(AgentProbe::new(says(b"green\n"))).await, "the agent says \"green\""),
        (both(AgentProbe::new(says(&[b'x'; 5000]))).await, "the agent's line is longer"),
    ] {
        let (Verdict::Agent(reply), Verdict::Fail { reason: why }) = verdicts else { panic!() };
        assert_eq!(reply.reason, why);
        assert!(why.contains(reason), "{why}");
        assert_eq!(AgentReply { reason: String::new(), ..reply }, AgentReply::default());
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_falls_silent_leaves_the_backend_as_it_was() {
    let line: Arc<Mutex<Option<&str>>> = Arc::new(Mutex::new(Some("down\n")));
    let said = Arc::clone(&line);
    let dial = service_fn(move |_: Arc<Backend>| {
        let line = *said.lock().unwrap();
        async move {
            let (client, mut agent) = duplex(100);
            match line {
                Some(line) => agent.write_all(line.as_bytes()).await?,
                // Longer than any timeout.
                None => sleep(secs(1000)).await,
            }
            Ok::<_, io::Error>(client)
        }
    });
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let _checks = web.check(Checks::agent(AgentProbe::new(dial)));
    sleep(secs(1)).await;
    assert!(!web.table().is_eligible(0));
    *line.lock().unwrap() = None;
    sleep(secs(20)).await;
    assert!(!web.table().is_eligible(0), "only the agent takes back what it has said");
    *line.lock().unwrap() = Some("up\n");
    sleep(secs(10)).await;
    assert!(web.table().is_eligible(0));
    *line.lock().unwrap() = None;
    sleep(secs(20)).await;
    assert!(web.table().is_eligible(0));
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_says_again_makes_no_new_table() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let _checks = web.check(Checks::agent(AgentProbe::new(says(b"up 100% ready drain maxconn:9"))));
    sleep(secs(1)).await;
    let version = *web.versions().borrow();
    assert_eq!(web.table().members()[0].condition(), Condition::Draining);
    sleep(secs(30)).await;
    assert_eq!(*web.versions().borrow(), version);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_probe_is_over_before_that_of_the_checks() {
    let start = Instant::now();
    let hangs = service_fn(async |_| std::future::pending::<io::Result<DuplexStream>>().await);
    assert!(matches!(ask(AgentProbe::new(hangs).timeout(secs(9))).await, Verdict::Agent(_)));
    assert_eq!(start.elapsed(), secs(9));
}

#[test]
fn a_silent_agent_is_told_of_once_and_again_after_it_has_answered() {
    let silent = Mutex::default();
    let web =
        cluster(["a", "b"].map(|name| Arc::new(Backend::new(name, Address::from(refused_addr())))));
    let table = web.table();
    let (a, b) = (table.members()[0].id(), table.members()[1].id());
    assert!(is_news(&silent, a, true) && is_news(&silent, b, true));
    assert!(!is_news(&silent, a, true));
    is_news(&silent, a, false);
    assert!(is_news(&silent, a, true) && !is_news(&silent, b, true));
}
