//! A connection's first bytes: a balancer's PROXY header, the TLS handshake, and the HTTP that the
//! client speaks.
//!
//! Nothing is read twice and nothing is lost: bytes that were read go on with the socket. While
//! nothing comes, no buffer is held.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, timeout};

use crate::io::socket::Socket;
use crate::limits::shares::{ClientKey, OpenPermit, Refused};
use crate::peer::forwarders::{Forwarders, Peer};
use crate::peer::proxy_protocol::{self, HEADER_BYTES_MAX, Header};
use crate::tls::Shown;
use crate::tls::handshakes::{Greeted, Handshakes};

/// The beginning of an HTTP/2 client that knows its server (RFC 9113 §3.4); no request of HTTP/1
/// does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const READ_BYTES: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

/// How the listener takes connections.
#[derive(Debug, Clone, Default)]
pub struct Acceptor {
    pub forwarders: Forwarders,
    /// Connections from the forwarders begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Clients speak TLS before anything else.
    pub tls: Option<Arc<Handshakes>>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    #[error("it broke off")]
    Broken(#[from] io::Error),
    #[error("it ended")]
    Ended,
    #[error("its first bytes did not come in time")]
    TimedOut(#[from] Elapsed),
    #[error("its client has its share of connections")]
    ShareTaken,
    #[error("it was an issuer of certificates")]
    Issuer,
    #[error("a balancer's PROXY header was expected")]
    Header(#[from] proxy_protocol::NoHeader),
}

/// A connection from its first bytes on.
#[derive(Debug)]
pub struct Accepted {
    pub socket: Socket,
    pub peer: Peer,
    pub http: Http,
    /// By TLS, where its client has named a host.
    pub shown: Option<Box<Shown>>,
    /// Of its client's share. In TLS, a client without one does not come so far.
    pub place: Result<Option<OpenPermit<ClientKey>>, Refused>,
}

impl Acceptor {
    /// The first bytes of each kind have `time`.
    pub async fn accept(
        &self,
        stream: TcpStream,
        address: std::net::SocketAddr,
        time: Duration,
        share: impl FnOnce(Peer) -> Result<Option<OpenPermit<ClientKey>>, Refused>,
    ) -> Result<Accepted, NotAccepted> {
        let mut ahead = BytesMut::new();
        let mut peer = self.forwarders.peer(address);
        if self.proxy_protocol && peer.trusted {
            let client = timeout(time, proxy_header(&stream, &mut ahead)).await??;
            peer = client.map_or(peer, |client| self.forwarders.peer(client));
        }
        if let Some(tls) = &self.tls {
            // Before the handshake, which costs more than all the rest.
            let place = share(peer).map_err(|_| NotAccepted::ShareTaken)?;
            let greeted = timeout(time, tls.accept(Socket::new(stream, Bytes::from(ahead)))).await??;
            let Greeted { stream, shown } = greeted.ok_or(NotAccepted::Issuer)?;
            let http = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Http::Two,
                _ => Http::One,
            };
            return Ok(Accepted { socket: Socket::with_tls(stream), peer, http, shown, place: Ok(place) });
        }
        let http = timeout(time, spoken(&stream, &mut ahead)).await??;
        let place = share(peer);
        let socket = Socket::new(stream, Bytes::from(ahead));
        Ok(Accepted { socket, peer, http, shown: None, place })
    }
}

/// Takes the header off, and leaves the bytes behind it.
async fn proxy_header(
    stream: &TcpStream,
    ahead: &mut BytesMut,
) -> Result<Option<std::net::SocketAddr>, NotAccepted> {
    loop {
        match proxy_protocol::parse(ahead)? {
            Header::Complete { length, client } => {
                let _header = ahead.split_to(length);
                return Ok(client);
            }
            Header::Incomplete if ahead.len() > HEADER_BYTES_MAX => {
                return Err(proxy_protocol::NoHeader.into());
            }
            Header::Incomplete => more(stream, ahead).await?,
        }
    }
}

async fn spoken(stream: &TcpStream, ahead: &mut BytesMut) -> Result<Http, NotAccepted> {
    loop {
        let common = ahead.len().min(PREFACE.len());
        if ahead[..common] != PREFACE[..common] {
            return Ok(Http::One);
        }
        if common == PREFACE.len() {
            return Ok(Http::Two);
        }
        more(stream, ahead).await?;
    }
}

async fn more(stream: &TcpStream, ahead: &mut BytesMut) -> Result<(), NotAccepted> {
    loop {
        stream.readable().await?;
        if read_now(stream, ahead)? {
            return Ok(());
        }
    }
}

/// In a function of its own, so that the buffer is no part of a future that waits.
fn read_now(stream: &TcpStream, ahead: &mut BytesMut) -> Result<bool, NotAccepted> {
    let mut buffer = [0; READ_BYTES];
    match stream.try_read(&mut buffer) {
        Ok(0) => Err(NotAccepted::Ended),
        Ok(read) => {
            ahead.extend_from_slice(&buffer[..read]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn arrives(acceptor: &Acceptor, first: &[u8]) -> Result<(Accepted, TcpStream), NotAccepted> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(first).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let accepted = acceptor.accept(stream, address, Duration::from_millis(100), |_| Ok(None)).await?;
        Ok((accepted, client))
    }

    fn behind_a_balancer() -> Acceptor {
        let forwarders = Forwarders::new(vec!["127.0.0.1".parse().unwrap()]);
        Acceptor { forwarders, proxy_protocol: true, tls: None }
    }

    #[tokio::test]
    async fn what_was_read_to_see_who_comes_is_not_lost() {
        let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n";
        for (acceptor, first, http) in [
            (Acceptor::default(), &b"G"[..], Http::One),
            (Acceptor::default(), b"POST / HTTP/1.1\r\n", Http::One),
            (Acceptor::default(), PREFACE, Http::Two),
            (behind_a_balancer(), &[&header[..], b"GET"].concat(), Http::One),
            (behind_a_balancer(), &[&header[..], PREFACE].concat(), Http::Two),
        ] {
            let (mut accepted, mut client) = arrives(&acceptor, first).await.unwrap();
            assert_eq!(accepted.http, http);
            client.write_all(b"more").await.unwrap();
            client.shutdown().await.unwrap();
            let mut all = Vec::new();
            accepted.socket.read_to_end(&mut all).await.unwrap();
            let kept = first.strip_prefix(&header[..]).unwrap_or(first);
            assert_eq!(all, [kept, b"more"].concat());
        }
    }

    #[tokio::test]
    async fn first_bytes_that_do_not_come_end_the_connection() {
        for (acceptor, first) in [
            (Acceptor::default(), &b""[..]),
            (Acceptor::default(), &PREFACE[..20]),
            (behind_a_balancer(), b""),
            (behind_a_balancer(), b"PROXY TCP4 192"),
            (behind_a_balancer(), b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n"),
        ] {
            let ended = arrives(&acceptor, first).await;
            assert!(matches!(ended, Err(NotAccepted::TimedOut(_))), "{first:?}: {ended:?}");
        }
        let ended = arrives(&behind_a_balancer(), b"GET / HTTP/1.1\r\n\r\n").await;
        assert!(matches!(ended, Err(NotAccepted::Header(_))), "{ended:?}");
    }
}
