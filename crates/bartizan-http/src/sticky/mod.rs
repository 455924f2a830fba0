//! Clients that stay with a backend by a cookie.
//!
//! The layer ([`StickyCookieLayer`]) reads the cookie above the balancer; the affinity
//! ([`ByCookie`]) has the balancer follow it, and tells the layer who has served. Between them, a
//! slot travels in the request's extensions.

mod affinity;
mod config;
mod dates;
mod keys;
mod layer;
mod request;
mod response;
mod token;
mod tokens;

pub use affinity::{ByCookie, CookieTie};
pub use config::{SameSite, StickyCookie, StickyCookieError};
pub use keys::{StickyKeyError, StickyKeys};
pub use layer::{StickyCookieFuture, StickyCookieLayer, StickyCookies};

#[cfg(test)]
mod tests;
