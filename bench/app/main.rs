//! The application in the sessions that are measured: small, so that what is measured is everything else. It answers
//! any path with its `SESSION`, takes a claim, echoes after an upgrade, and says on its own clock when the stop signal came.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

mod echo;

use echo::Echo;

/// When the last upgraded connection closed.
pub static LAST_CLOSE: Mutex<Option<Instant>> = Mutex::new(None);
/// What the session is called: by the environment, or by the claim.
static SESSION: Mutex<String> = Mutex::new(String::new());

/// The answer to the key of RFC 6455 §1.3, which every client here sends: HAProxy insists on it.
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct Request {
    line: String,
    upgrade: bool,
    body: Vec<u8>,
}

fn main() -> io::Result<()> {
    raise_file_limit();
    let signals = block_terminate();
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080_u16);
    set_session(std::env::var("SESSION").unwrap_or_default());
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    std::thread::spawn(move || until_terminated(&signals));
    let echo = Arc::new(Echo::start()?);
    for stream in listener.incoming() {
        let (stream, echo) = (stream?, echo.clone());
        std::thread::spawn(move || serve(stream, &echo));
    }
    Ok(())
}

/// As many files as it may have: one each tunnel.
fn raise_file_limit() {
    // SAFETY: the limit outlives both calls, and is filled by the first.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

fn set_session(name: String) {
    *SESSION.lock().expect("no panic holds it") = name;
}

/// Before there are threads, so that they inherit it.
fn block_terminate() -> libc::sigset_t {
    // SAFETY: the set is initialised by sigemptyset before it is read; the calls touch nothing else.
    unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
        signals
    }
}

/// A deaf application says so and goes on, so that its words can be read.
fn until_terminated(signals: &libc::sigset_t) {
    let deaf = std::env::var_os("DEAF").is_some();
    loop {
        let mut signal = 0;
        // SAFETY: both point to values that outlive the call.
        unsafe { libc::sigwait(signals, &raw mut signal) };
        let since = LAST_CLOSE.lock().expect("no panic holds it").map(|at| at.elapsed().as_micros());
        println!("SIGTERM since_last_close_us={}", since.unwrap_or_default());
        if !deaf {
            std::process::exit(0);
        }
    }
}

fn serve(stream: TcpStream, echo: &Echo) {
    // Whoever hangs up in the middle has what he wanted.
    let _hung_up = exchange(stream, echo);
}

fn exchange(mut stream: TcpStream, echo: &Echo) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read(&mut reader)? {
        if request.upgrade {
            stream.write_all(UPGRADED)?;
            stream.write_all(reader.buffer())?;
            return echo.take(stream);
        }
        if request.line.starts_with("POST /claim") {
            let claim: serde_json::Value = serde_json::from_slice(&request.body)?;
            set_session(claim["env"]["SESSION"].as_str().unwrap_or_default().to_owned());
        }
        let body = SESSION.lock().expect("no panic holds it").clone();
        // In one segment: `write!` would send a piece at a time.
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut request = Request { line: String::new(), upgrade: false, body: Vec::new() };
    if reader.read_line(&mut request.line)? == 0 {
        return Ok(None);
    }
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "upgrade" => request.upgrade = true,
            "content-length" => request.body.resize(value.trim().parse().unwrap_or(0), 0),
            _ => {}
        }
    }
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}
