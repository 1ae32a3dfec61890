//! What it is that listens where Postgres should.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For each step of a look at what listens there.
const LOOK_STEP: Duration = Duration::from_secs(1);
/// An `SSLRequest` (PostgreSQL, 55.7 Message Formats): its length, and the code 1234 5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The first words of what listens there. Many servers wait for a line's end before they complain, so they get one;
/// Postgres has answered by then.
pub async fn hear(options: &PgConnectOptions) -> std::io::Result<Vec<u8>> {
    if options.get_socket().is_some() {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let connect = TcpStream::connect((options.get_host(), options.get_port()));
    let mut stream = timeout(LOOK_STEP, connect).await??;
    let mut heard = vec![0; 64];
    let mut n = 0;
    for say in [&SSL_REQUEST[..], b"\r\n\r\n"] {
        stream.write_all(say).await?;
        if let Ok(read) = timeout(LOOK_STEP, stream.read(&mut heard)).await {
            n = read?;
            break;
        }
    }
    heard.truncate(n);
    Ok(heard)
}

/// `None`: it said nothing. An `SSLRequest` is answered with one letter, or with an error message. A
/// server that was stopped meanwhile finds the line's end behind the `SSLRequest`, and refuses it
/// after the letter.
pub fn is_postgres(heard: &[u8]) -> Option<bool> {
    match heard {
        [] => None,
        [b'S' | b'N'] | [b'S' | b'N', b'E', 0, 0, ..] => Some(true),
        // The length of an error message is below 64 kB: HTTP's and others' letters would make it a huge one.
        [b'E', 0, 0, ..] => Some(true),
        _ => Some(false),
    }
}

pub fn shown(heard: &[u8]) -> String {
    let line = heard.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    line.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_there_is_told_by_its_first_bytes() {
        for (heard, expect) in [
            (&b""[..], None),
            (b"S", Some(true)),
            (b"N", Some(true)),
            (b"E\0\0\0\x60SFATAL\0", Some(true)),
            (b"NE\0\0\0\xd3SFATAL\0", Some(true)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(false)),
            (b"SSH-2.0-OpenSSH\r\n", Some(false)),
            (b"\x4a\0\0\0\x0a8.0.36", Some(false)),
            (b"-ERR unknown command", Some(false)),
            (b"Error", Some(false)),
            (b"NEWS", Some(false)),
        ] {
            assert_eq!(is_postgres(heard), expect, "{}", heard.escape_ascii());
        }
        assert_eq!(shown(b"HTTP/1.1 400\r\nx: y"), "HTTP/1.1 400");
        assert_eq!(shown(b"\x1b[2J\xff"), "\\x1b[2J\\xff");
    }
}
