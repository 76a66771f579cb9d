//! No program of the workspace can reach a network: neither its own code nor what it links knows how.

use std::fs;

use crate::{expect_none, rust_files, workspace};

/// Crates that open connections, by the beginning of their names.
const CONNECTING: [&str; 14] = [
    "async-std",
    "attohttpc",
    "curl",
    "hf-hub",
    "hyper",
    "isahc",
    "minreq",
    "native-tls",
    "openssl",
    "reqwest",
    "rustls",
    "tokio",
    "ureq",
    "quinn",
];

#[test]
fn nothing_of_a_program_opens_a_connection() {
    let (workspace, metadata) = workspace();
    let mut problems = Vec::new();
    let lock = fs::read_to_string(workspace.root().join("Cargo.lock")).unwrap();
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = "));
    for name in names.map(|name| name.trim_matches('"')) {
        let connects = |known: &str| name == known || name.starts_with(&format!("{known}-"));
        if CONNECTING.iter().copied().any(connects) {
            problems.push(format!("Cargo.lock: {name} opens connections"));
        }
    }
    for package in metadata.packages.iter().filter(|p| p.name != "xtask") {
        for file in rust_files(&package.dir.join("src")) {
            for (index, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
                if ["std::net", "TcpStream", "UdpSocket", "UnixStream"].iter().any(|word| line.contains(word))
                {
                    problems.push(format!("{}:{}: {}", file.display(), index + 1, line.trim()));
                }
            }
        }
    }
    expect_none(&problems);
}
