//! Tickets that open only while their client is trusted.

use std::fmt;
use std::sync::Arc;

use bartizan_net::clock::Clock;
use rustls::pki_types::CertificateDer;
use rustls::server::ProducesTickets;

use crate::client_auth::ClientPolicy;

/// Opens a ticket only if the client whose session is in it would be let in now.
///
/// rustls verifies nothing when a session is resumed. A ticket of another trust does not open, but
/// time passes: certificates and revocation lists expire. A ticket that does not open leads to a
/// full handshake, in which a client can show the certificate that it has by now. To break the
/// connection off after a resumed handshake would send it back with the same ticket.
pub(crate) struct TrustedSessions {
    tickets: Arc<dyn ProducesTickets>,
    policy: Arc<ClientPolicy>,
    clock: Arc<dyn Clock>,
}

impl TrustedSessions {
    pub(crate) fn new(
        tickets: Arc<dyn ProducesTickets>,
        policy: Arc<ClientPolicy>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { tickets, policy, clock }
    }
}

impl ProducesTickets for TrustedSessions {
    fn enabled(&self) -> bool {
        self.tickets.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.tickets.lifetime()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.tickets.encrypt(session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let session = self.tickets.decrypt(ticket)?;
        let chain = client_chain(&session)?;
        self.policy.verify(&chain, self.clock.now()).ok()?;
        Some(session)
    }
}

impl fmt::Debug for TrustedSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedSessions").finish_non_exhaustive()
    }
}

/// The certificates of the client in a session as rustls 0.23 writes it (`ServerSessionValue`);
/// empty if it has shown none. `None` if it is written in another way: then it cannot be judged.
///
/// ```text
/// u8 has-sni [u8 length, sni] | u16 version | u16 suite | u8 length, secret | u8 extended
///     | u8 has-chain [u24 length, { u24 length, certificate }*] | …
/// ```
pub(crate) fn client_chain(session: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    let mut rest = session;
    if flag(&mut rest)? {
        vector(&mut rest, 1)?;
    }
    take(&mut rest, 4)?;
    vector(&mut rest, 1)?;
    flag(&mut rest)?;
    if !flag(&mut rest)? {
        return Some(Vec::new());
    }
    let mut certificates = vector(&mut rest, 3)?;
    let mut chain = Vec::new();
    while !certificates.is_empty() {
        chain.push(vector(&mut certificates, 3)?.into());
    }
    (!chain.is_empty()).then_some(chain)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn flag(rest: &mut &[u8]) -> Option<bool> {
    match take(rest, 1)? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

/// Bytes behind their length, which takes `width` bytes.
fn vector<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let len = take(rest, width)?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    take(rest, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(sni: Option<&[u8]>, chain: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![u8::from(sni.is_some())];
        if let Some(sni) = sni {
            bytes.push(sni.len() as u8);
            bytes.extend_from_slice(sni);
        }
        bytes.extend_from_slice(&[3, 4, 0x13, 1, 2, 7, 7, 1, u8::from(!chain.is_empty())]);
        if !chain.is_empty() {
            let certificates: Vec<u8> =
                chain.iter().flat_map(|der| [&[0, 0, der.len() as u8], *der].concat()).collect();
            bytes.extend_from_slice(&[0, 0, certificates.len() as u8]);
            bytes.extend_from_slice(&certificates);
        }
        bytes.extend_from_slice(&[0, 0, 0]);
        bytes
    }

    #[test]
    fn the_chain_is_found_with_and_without_a_name() {
        for sni in [None, Some(&b"a.test"[..])] {
            let of = |chain: &[&[u8]]| {
                let session = session(sni, chain);
                client_chain(&session).map(|chain| chain.iter().map(|c| c.to_vec()).collect())
            };
            assert_eq!(of(&[]), Some(Vec::<Vec<u8>>::new()));
            assert_eq!(of(&[&[1, 2, 3], &[4]]), Some(vec![vec![1, 2, 3], vec![4]]));
        }
    }

    #[test]
    fn what_is_cut_or_strange_is_not_judged() {
        let whole = session(Some(b"a.test"), &[&[1, 2, 3], &[4]]);
        let end = whole.len() - 3;
        for len in 0..end {
            assert_eq!(client_chain(&whole[..len]), None, "{len}");
        }
        let mut strange = whole;
        strange[0] = 2;
        assert_eq!(client_chain(&strange), None);
        assert_eq!(client_chain(&[]), None);
    }
}
