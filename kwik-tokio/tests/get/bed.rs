//! Servers and a place for what a client fetches.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// Time that anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The program, without anything of the environment that changes what it prints.
pub(crate) fn kwik() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kwik"));
    command.env_remove("NO_COLOR").env_remove("TERM").stdin(Stdio::null());
    command
}

/// Servers over one directory, and a directory to fetch into.
pub(crate) struct Bed {
    folder: TempDir,
    pub(crate) primary: Server,
    /// They run for as long as this lives.
    _mirrors: Vec<Server>,
}

/// A server in a process of its own.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
    pub(crate) pin: String,
}

impl Server {
    /// Starts one and waits until it listens.
    fn start(command: &mut Command, pin: String) -> Self {
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let (listening, listens) = mpsc::channel();
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("server: {line}");
                if let Some((_, rest)) = line.split_once("address=") {
                    let address = rest.split_whitespace().next().unwrap_or_default().to_owned();
                    listening.send(address).unwrap_or_default();
                }
            }
        });
        let address = listens.recv_timeout(PATIENCE).expect("the server listens");
        Self { process, address, pin }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Bed {
    /// Starts a primary with so many mirrors.
    pub(crate) fn new(mirrors: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        let primary = keygen(folder.path(), "primary", "primary");
        let public_key = primary.get("public key");
        let mut options = Vec::new();
        let mut started = Vec::new();
        for number in 0..mirrors {
            let keys = format!("mirror-{number}");
            let pin = keygen(folder.path(), "mirror", &keys).get("pin");
            let mut command = kwik();
            command.current_dir(folder.path()).args(["mirror", "--root", "root", "--listen", "127.0.0.1:0"]);
            let mirror = Server::start(command.args(["--keys", &keys, "--trust", &public_key]), pin);
            options.extend(["--mirror".to_owned(), format!("{}#{}", mirror.address, mirror.pin)]);
            started.push(mirror);
        }
        let mut command = kwik();
        command.current_dir(folder.path()).args(["serve", "--root", "root", "--keys", "primary"]);
        command.args(["--listen", "127.0.0.1:0"]).args(options);
        let primary = Server::start(&mut command, primary.get("pin"));
        Self { folder, primary, _mirrors: started }
    }

    /// Puts an object where the servers find it, and returns its bytes.
    pub(crate) fn object(&self, name: &str, len: usize) -> Vec<u8> {
        self.object_of(name, len, 1)
    }

    /// Puts one of several versions of an object there.
    pub(crate) fn object_of(&self, name: &str, len: usize, version: u64) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(name.as_bytes()).update(&version.to_le_bytes());
        let mut bytes = vec![0; len];
        hasher.finalize_xof().fill(&mut bytes);
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Under another name first: what is served never is half an object.
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, &bytes).unwrap();
        fs::rename(fresh, path).unwrap();
        bytes
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Place of what is fetched.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.out(name)).unwrap()
    }

    /// Names of what is there, below the place of what is fetched.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut all = Vec::new();
        walk(&self.out(""), &self.out(""), &mut all);
        all.sort();
        all
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("kwik://{}/{path}", self.primary.address)
    }

    /// The command that fetches `path` and trusts the primary.
    pub(crate) fn get(&self, path: &str) -> Command {
        let mut command = kwik();
        command.current_dir(self.out("")).args(["get", &self.url(path), "--pin", &self.primary.pin]);
        command
    }
}

fn walk(root: &Path, folder: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            walk(root, &entry.path(), all);
        } else {
            all.push(entry.path().strip_prefix(root).unwrap().display().to_string());
        }
    }
}

/// The lines that `kwik keygen` printed.
struct Made(String);

impl Made {
    fn get(&self, what: &str) -> String {
        let line = self.0.lines().find_map(|line| line.strip_prefix(what));
        line.unwrap_or_else(|| panic!("no {what} in: {}", self.0)).trim().to_owned()
    }
}

fn keygen(folder: &Path, role: &str, keys: &str) -> Made {
    let made = kwik()
        .current_dir(folder)
        .args(["keygen", role, "--dir", keys, "--name", "127.0.0.1"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
    Made(String::from_utf8(made.stdout).unwrap())
}

/// Lines of a process on standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command to its end. Returns its exit code and what it said.
pub(crate) fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap_or(-1), said(&output))
}

/// Runs a command that is to succeed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let (code, said) = run(command);
    assert_eq!(code, 0, "{said}");
    said
}
