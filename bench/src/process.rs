//! What the kernel says of a process that is measured, and of its children.

use anyhow::Context;

/// USER_HZ of x86 and ARM.
const TICKS_A_SECOND: f64 = 100.0;

/// Processor time, in the kernel and outside.
pub fn processor_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): utime and stime, the 14th and 15th field; the second one may have spaces in it.
    let (_, fields) = stat.rsplit_once(')').context("a stat line")?;
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<f64>).sum();
    let mut seconds = ticks / TICKS_A_SECOND;
    for child in children(pid)? {
        seconds += processor_seconds(child)?;
    }
    Ok(seconds)
}

/// Bytes of memory that it has.
pub fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    let mut bytes = kib * 1024.0;
    for child in children(pid)? {
        bytes += resident(child)?;
    }
    Ok(bytes)
}

fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}
