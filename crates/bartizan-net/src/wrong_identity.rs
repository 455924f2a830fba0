//! The error that says: not who it has to be.

use std::error::Error;
use std::io;

use crate::BoxError;

/// Marks an error: the other side is not who it has to be, so trying again does not help.
///
/// A dial service that verifies whom it reaches puts it around its reason, and whoever decides what
/// becomes of the target looks for it with [`is_behind`](Self::is_behind): a target with a wrong
/// certificate is taken out at once, where one that did not answer is given another chance.
#[derive(Debug, thiserror::Error)]
#[error("the other side is not who it has to be, and trying again does not help")]
pub struct WrongIdentity(#[source] BoxError);

impl WrongIdentity {
    /// Not who it has to be, because of `source`.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }

    /// Whether it is `error`, or one of the sources of `error`.
    ///
    /// What is in an [`io::Error`] is looked at as well; its `source` would pass over it.
    pub fn is_behind(error: &(dyn Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<Self>() {
                return true;
            }
            let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = match inside {
                Some(inside) => Some(inside),
                None => error.source(),
            };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorChain;

    #[derive(Debug, thiserror::Error)]
    #[error("the dial failed")]
    struct Around(#[source] BoxError);

    #[test]
    fn it_is_found_wherever_it_is_in_the_chain() {
        let marked = || WrongIdentity::new("the name is another");
        assert!(WrongIdentity::is_behind(&marked()));
        assert!(WrongIdentity::is_behind(&Around(marked().into())));
        assert!(WrongIdentity::is_behind(&io::Error::other(marked())));
        let deep = Around(io::Error::other(Around(marked().into())).into());
        assert!(WrongIdentity::is_behind(&deep));
    }

    #[test]
    fn other_errors_are_not_marked() {
        assert!(!WrongIdentity::is_behind(&Around("refused".into())));
        assert!(!WrongIdentity::is_behind(&io::Error::from(io::ErrorKind::ConnectionRefused)));
    }

    #[test]
    fn it_says_so_and_why() {
        let error = Around(WrongIdentity::new("the name is another").into());
        assert_eq!(
            ErrorChain(&error).to_string(),
            "the dial failed: the other side is not who it has to be, and trying again does not \
             help: the name is another"
        );
    }
}
