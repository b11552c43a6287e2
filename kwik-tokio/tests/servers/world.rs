//! Servers and clients as processes of their own, with keys and files in a directory that is removed at the end.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

/// Time for things that happen at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn kwik() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kwik"))
}

/// Runs the program with these arguments to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    kwik().args(args).output().unwrap()
}

/// Directories, keys, and an authority that clients trust.
pub(crate) struct World {
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(world.path("files")).unwrap();
        assert!(run(&["keygen", "ca", "--dir", &world.text("ca")]).status.success());
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Makes a file below `dir`; no two of its words are alike.
    pub(crate) fn file(&self, dir: &str, name: &str, len: usize) -> Vec<u8> {
        let words = (0..len as u64 / 8 + 1)
            .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n >> 3).to_le_bytes());
        let bytes: Vec<u8> = words.take(len).collect();
        let path = self.path(dir).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
        bytes
    }

    /// Makes a server's keys in a directory of their own.
    pub(crate) fn keys(&self, role: &str, dir: &str) -> Printed {
        let made =
            run(&["keygen", role, "--dir", &self.text(dir), "--name", "127.0.0.1", "--ca", &self.text("ca")]);
        Printed::of(made)
    }

    /// Starts a mirror of `root`. Returns it with how a primary names it.
    pub(crate) fn mirror(&self, keys: &str, root: &str, trust: &str) -> (Server, String) {
        let pin = self.keys("mirror", keys).value("pin");
        let server = self.serve("mirror", keys, root, &["--trust", trust]);
        let name = format!("{}#{pin}", server.address);
        (server, name)
    }

    /// Starts a server with keys that were made before.
    pub(crate) fn serve(&self, command: &str, keys: &str, root: &str, args: &[&str]) -> Server {
        let mut child = kwik()
            .args([command, "--root", &self.text(root), "--keys", &self.text(keys)])
            .args(["--listen", "127.0.0.1:0", "--log-json", "--log-level", "debug"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = Log::of(child.stderr.take().unwrap());
        let line = log.wait_for(|line| line.get("address").is_some());
        Server { address: line["address"].as_str().unwrap().to_owned(), child, log }
    }

    /// A client that is to fetch; its progress as JSON lines on standard error.
    pub(crate) fn get(&self, server: &Server, path: &str, out: &str) -> Command {
        let mut get = kwik();
        get.args(["get", &format!("kwik://{}/{path}", server.address)]).args([
            "--ca",
            &self.text("ca/ca.pem"),
            "-o",
            &self.text(out),
        ]);
        get
    }
}

/// The lines that `kwik keygen` printed.
pub(crate) struct Printed(String);

impl Printed {
    pub(crate) fn of(output: Output) -> Self {
        assert!(output.status.success(), "{output:?}");
        Self(String::from_utf8(output.stdout).unwrap())
    }

    pub(crate) fn value(&self, what: &str) -> String {
        let line = self.0.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    }
}

/// A server that runs. Dropping it kills it.
pub(crate) struct Server {
    pub(crate) address: String,
    child: Child,
    pub(crate) log: Log,
}

impl Server {
    /// Kills it without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended and returns its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end: {:?}", self.log.seen);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The log of a server, line by line.
pub(crate) struct Log {
    lines: Receiver<Value>,
    pub(crate) seen: Vec<Value>,
}

impl Log {
    fn of(stderr: ChildStderr) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { lines, seen: Vec::new() }
    }

    /// Waits for a line, those that were seen before included.
    pub(crate) fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(line) = self.seen.iter().find(|line| wanted(line)) {
            return line.clone();
        }
        self.wait_for_another(wanted)
    }

    /// Waits for a line that was not seen before.
    pub(crate) fn wait_for_another(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(error) => panic!("{error}: {:#?}", self.seen),
            }
        }
    }

    /// Waits for a line with this message.
    pub(crate) fn says(&mut self, message: &str) -> Value {
        self.wait_for(|line| line["message"] == message)
    }
}

/// Asks for a page by HTTP. Returns its status and its text.
pub(crate) fn http(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Asserts that a client succeeded, and brought these bytes.
pub(crate) fn brought(output: &Output, path: &Path, bytes: &[u8]) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(path).unwrap() == bytes, "other bytes");
}
