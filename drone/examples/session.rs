//! What the tests' containers run: one static executable with a role for each thing that a session may do. Given the
//! role `net-guard`, it is the helper image's `jetway`. Not its business: being of use outside the tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const CONNECT_DEADLINE: Duration = Duration::from_millis(1500);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => serve(),
        ["attack"] => attack(),
        ["massacre"] => massacre(),
        ["exit", code] => {
            println!("to stdout");
            eprint!("to stderr without a newline");
            std::process::exit(code.parse().unwrap_or(99));
        }
        ["eat"] => eat(),
        ["connect", addresses @ ..] => connect(addresses),
        ["write", path, text] => match std::fs::write(path, text) {
            Ok(()) => println!("written"),
            Err(error) => println!("not written: {error}"),
        },
        ["facts"] => facts(),
        ["net-guard", ..] => net_guard(&args[1..]),
        other => {
            eprintln!("no such role: {other:?}");
            std::process::exit(64);
        }
    }
}

/// Answers each connection with a greeting and what it said.
fn serve() {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).expect("the port is free");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut said = [0; 100];
        let length = stream.read(&mut said).unwrap_or(0);
        let _gone = stream.write_all(b"hello ").and_then(|()| stream.write_all(&said[..length]));
    }
}

/// Everything that an application could try so as to outlive the lease; then it goes on as if nothing had happened.
fn attack() {
    let said = |what: &str, done: bool| println!("{what}: {}", if done { "done" } else { "refused" });
    // SAFETY: takes only numbers.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        let none = std::ptr::null_mut::<libc::c_void>();
        said("attach", libc::ptrace(libc::PTRACE_ATTACH, 1, none, none) == 0);
        said("seize", libc::ptrace(libc::PTRACE_SEIZE, 1, none, none) == 0);
        // The kernel takes these, and PID 1 never sees them.
        libc::kill(1, libc::SIGKILL);
        libc::kill(1, libc::SIGSTOP);
        said("unmount", libc::umount2(c"/.jetway/lease".as_ptr(), libc::MNT_DETACH) == 0);
    }
    said("memory", std::fs::OpenOptions::new().write(true).open("/proc/1/mem").is_ok());
    let late = b"1 00000000-0000-0000-0000-000000000000 99999999999\n";
    said("deadline", std::fs::write("/.jetway/lease/deadline", late).is_ok());
    said("replace", std::fs::write("/.jetway/lease/new", late).is_ok());
    // The directory above the mounts is the image's, and its owner's to rename.
    if std::fs::rename("/.jetway", "/elsewhere").is_ok() {
        let _made = std::fs::create_dir_all("/.jetway/lease");
        let _put = std::fs::write("/.jetway/lease/deadline", late);
    }
    serve();
}

/// Kills whatever it may, and serves if it is left itself.
fn massacre() {
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_number(name))
        .collect();
    println!("processes: {}", processes.join(" "));
    // SAFETY: takes only numbers.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    serve();
}

fn eat() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1u8; 1024 * 1024]);
        std::hint::black_box(&eaten);
    }
}

fn connect(addresses: &[&str]) {
    for text in addresses {
        let address: SocketAddr = text.parse().expect("an address");
        match TcpStream::connect_timeout(&address, CONNECT_DEADLINE) {
            Ok(_) => println!("{text} open"),
            Err(error) => println!("{text} closed: {:?}", error.kind()),
        }
    }
    println!("done");
}

fn facts() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in
        status.lines().filter(|line| ["Uid", "Cap", "NoNew"].iter().any(|start| line.starts_with(start)))
    {
        println!("{line}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.contains("/.jetway")) {
        println!("{line}");
    }
    println!("done");
}

fn net_guard(args: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(jetway_drone::runtime::docker::guard_helper::run_helper(args));
    if let Err(error) = outcome {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
