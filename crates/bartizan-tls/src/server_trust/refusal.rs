//! From the verifier to whoever runs the handshake: why it refused, and what it was shown.
//!
//! A `ClientConfig`, and the verifier in it, serve many handshakes at once, and rustls hands on
//! nothing of a refusal but an error made for alerts. So the verifier leaves a record in a slot of
//! its thread, which the caller takes in the same poll of the handshake. Why nobody takes the record
//! of another handshake:
//!
//! - rustls verifies inside of `process_new_packets`, which the handshake's future calls from its
//!   `poll`: the record is left on the thread that polls, and between that and the end of the poll
//!   there is no point at which another task could run on it.
//! - A refusal ends the handshake, and with it the poll; a connection that is refused is not polled
//!   again.
//! - [`observe`] empties the slot before the poll and takes the record after it, so one that nobody
//!   took, by a caller without interest in it, is gone by then. A verification empties it too.
//!
//! A handshake that is polled elsewhere than where its error is looked at (rustls on a thread of its
//! own behind a channel) has to call [`observe`] there.

use std::cell::RefCell;

use super::presented::PresentedCertificate;
use crate::CertificateProblem;

/// A certificate that was refused.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) problem: CertificateProblem,
    pub(crate) presented: PresentedCertificate,
}

/// Runs one poll of a handshake, and tells of the refusal in it.
pub(crate) fn observe<T>(poll: impl FnOnce() -> T) -> (T, Option<Refused>) {
    clear();
    let polled = poll();
    (polled, take_refusal())
}

/// The last refusal on this thread, if it was not taken yet: to be called in the very poll in which
/// the handshake failed. [`observe`] does so.
pub(super) fn take_refusal() -> Option<Refused> {
    SLOT.with_borrow_mut(Option::take)
}

pub(super) fn clear() {
    SLOT.set(None);
}

pub(super) fn leave(refused: Refused) {
    SLOT.set(Some(refused));
}

thread_local! {
    static SLOT: RefCell<Option<Refused>> = const { RefCell::new(None) };
}
