//! Open connections of clients with certificates, which a new generation may withdraw.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use bartizan_net::{ClientIdentity, Drain, DrainWatch, Phase};
use rustls::pki_types::CertificateDer;

use super::generation::Generation;
use super::withdrawal::Withdrawal;

/// All open connections with a verified client.
#[derive(Debug, Default)]
pub(crate) struct Live {
    members: Arc<Mutex<Members>>,
}

#[derive(Debug, Default)]
struct Members {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
}

#[derive(Debug)]
struct Connection {
    /// None, if only dates are watched.
    client: Option<Arc<ClientIdentity>>,
    policy: u32,
    drain: Drain,
    why: OnceLock<Withdrawn>,
}

/// Why a connection is asked to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Withdrawn {
    /// The client is trusted no more; what the verifier said.
    Distrusted(Arc<str>),
    /// The client's certificate has expired.
    ClientExpired,
    /// The certificate that was served has expired.
    ServerExpired,
}

impl std::fmt::Display for Withdrawn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Distrusted(why) => write!(f, "the client is trusted no more: {why}"),
            Self::ClientExpired => f.write_str("the client's certificate has expired"),
            Self::ServerExpired => f.write_str("the certificate that was served has expired"),
        }
    }
}

/// A connection's place among the open ones; given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Member {
    members: Arc<Mutex<Members>>,
    id: u64,
    connection: Arc<Connection>,
}

impl Live {
    /// Adds a connection whose client was verified under `policy`.
    ///
    /// The caller must look at the current generation *afterwards*: one that was put in force
    /// before this has not seen the connection.
    pub(crate) fn join(&self, client: Option<Arc<ClientIdentity>>, policy: u32) -> Member {
        let connection = Connection { client, policy, drain: Drain::new(), why: OnceLock::new() };
        let connection = Arc::new(connection);
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.next += 1;
        let id = members.next;
        members.all.insert(id, Arc::clone(&connection));
        drop(members);
        Member { members: Arc::clone(&self.members), id, connection }
    }

    /// Asks those connections to end whose clients the new generation does not trust.
    ///
    /// Each chain is verified once, however many connections it has, and outside of the lock.
    pub(crate) fn review(
        &self,
        previous: &Generation,
        next: &Generation,
        rules: &Withdrawal,
        now: SystemTime,
    ) {
        let all: Vec<_> = {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            members.all.values().map(Arc::clone).collect()
        };
        // By policy and chain, why it is not trusted.
        let mut judged = HashMap::<(u32, &[Vec<u8>]), _>::new();
        let trust = |generation: &Generation, policy| generation.client_policy(policy).trust;
        let mut withdrawn = 0;
        for connection in &all {
            let Some(client) = &connection.client else { continue };
            if trust(previous, connection.policy) == trust(next, connection.policy) {
                continue;
            }
            let verdict = judged
                .entry((connection.policy, &client.chain))
                .or_insert_with(|| distrust(next, connection.policy, client, rules, now));
            if let Some(why) = verdict {
                withdrawn += 1;
                connection.withdraw(Withdrawn::Distrusted(Arc::clone(why)));
            }
        }
        if withdrawn > 0 {
            tracing::info!(
                withdrawn,
                generation = next.number,
                "connections of clients that are not trusted any more end"
            );
        }
    }
}

impl Member {
    /// Verifies the client again if `current` is not the generation `seen` in the handshake; why it
    /// is not trusted, if it is not.
    pub(crate) fn catch_up(
        &self,
        seen: u64,
        current: &Generation,
        rules: &Withdrawal,
        now: SystemTime,
    ) -> Option<Arc<str>> {
        let Connection { client, policy, .. } = &*self.connection;
        let client = client.as_ref().filter(|_| current.number != seen)?;
        distrust(current, *policy, client, rules, now)
    }

    /// Asks the connection to end.
    pub(crate) fn withdraw(&self, why: Withdrawn) {
        self.connection.withdraw(why);
    }

    /// Says when the connection is asked to end.
    pub(crate) fn drain(&self) -> DrainWatch {
        self.connection.drain.watch()
    }

    /// Says why it is.
    pub(crate) fn why(&self) -> Option<&Withdrawn> {
        self.connection.why.get()
    }

    /// A number at random for the connection.
    pub(crate) fn draw(&self) -> u32 {
        RandomState::new().hash_one(self.id) as u32
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).all.remove(&self.id);
    }
}

impl Connection {
    fn withdraw(&self, why: Withdrawn) {
        // The first reason is the one that counts.
        if self.why.set(why).is_ok() {
            self.drain.advance(Phase::Announced);
        }
    }
}

/// Why `client` is not trusted, if it is not.
fn distrust(
    generation: &Generation,
    policy: u32,
    client: &ClientIdentity,
    rules: &Withdrawal,
    now: SystemTime,
) -> Option<Arc<str>> {
    let chain: Vec<_> =
        client.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    // Its expiry is a matter of its own.
    let at = match client.not_after {
        Some(end) if !rules.on_client_expiry => now.min(end),
        _ => now,
    };
    let error = generation.client_policy(policy).verify(&chain, at).err()?;
    Some(error.to_string().into())
}
