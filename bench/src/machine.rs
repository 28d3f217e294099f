//! What was measured, and on which machine, in one line.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::system::{Programs, System};

/// The machine: processors, memory, kernel, and what else it has to do.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let model = value_of(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = value_of(&read("/proc/meminfo"), "MemTotal").and_then(|kib| gib_of(&kib));
    let memory = memory.map_or_else(String::new, |gib| format!(", {gib} GiB"));
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{cores} × {model}{memory}, Linux {}, load {load} before it began", kernel.trim())
}

/// The versions of what is compared.
pub(crate) fn versions(systems: &[System], programs: &Programs) -> String {
    let mut versions = Vec::new();
    for system in systems {
        versions.extend(match system {
            System::NatsMqtt | System::NatsMqttTls => Some(version_of(&programs.nats_mqtt, "--version")),
            System::Beside => {
                programs.beside.as_ref().map(|program| format!("beside: {}", version_of(program, "--version")))
            }
            System::NatsMqttJwt | System::NatsMqttTlsFull | System::NatsServer | System::MosquittoTlsFull => None,
            System::Mosquitto | System::MosquittoTls => {
                programs.mosquitto.as_ref().map(|program| version_of(program, "-h"))
            }
        });
    }
    versions.dedup();
    versions.push(version_of(&programs.nats_server, "--version"));
    versions.join(", ")
}

fn value_of(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn gib_of(kib: &str) -> Option<u64> {
    let kib: u64 = kib.strip_suffix(" kB")?.parse().ok()?;
    Some((kib + 512 * 1024) / (1024 * 1024))
}

/// The first line that a program says when it is asked for its version.
fn version_of(program: &Path, option: &str) -> String {
    let output = Command::new(program).arg(option).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match text.lines().next() {
        Some(line) => line.replace(": ", " ").replace(" version ", " "),
        None => program.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_name() {
        let text = "processor\t: 0\nmodel name\t: Some   CPU @ 2 GHz\nmodel\t\t: 7\n";
        assert_eq!(value_of(text, "model name").unwrap(), "Some CPU @ 2 GHz");
        assert_eq!(value_of(text, "model").unwrap(), "7");
        assert_eq!(value_of(text, "flags"), None);
        assert_eq!(gib_of("24689140 kB"), Some(24));
    }
}
