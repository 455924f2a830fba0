//! Connections for tonic's `serve_with_incoming`.

use tonic::transport::server::Connected;

use super::{TlsConnInfo, TlsConnection};

/// `Server::builder().add_service(..).serve_with_incoming(listener.into_stream())`: tonic puts the
/// [`TlsConnInfo`] into the extensions of each request. The store is to agree on `h2` alone.
impl<IO> Connected for TlsConnection<IO> {
    type ConnectInfo = TlsConnInfo;

    fn connect_info(&self) -> TlsConnInfo {
        self.conn_info()
    }
}
