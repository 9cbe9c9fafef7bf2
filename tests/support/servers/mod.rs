//! Real PostgreSQL and Redis servers for tests, installed and started by the test command itself.
//!
//! What is missing is installed with `apt-get`, as root or through `sudo -n`; where that cannot be, the test fails and
//! says what to install. A server of the system is never used: each one here has a folder, a port and a process of its
//! own.
//!
//! **No server outlives its tests.** Beside each there is a keeper, a detached shell that waits for the *lease* file of
//! the server. Whoever uses the server holds a shared lock on it, which the kernel drops however a process dies. When
//! nobody holds it any more the keeper stops the server and removes its folder. The shared server is kept for some
//! seconds more, since the next test program of the same run wants it.

#![allow(dead_code, unused_imports, reason = "each test crate uses its part")]

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

mod postgres;
mod redis;

pub(crate) use postgres::{Copied, Database, Postgres, Stop};
pub(crate) use redis::Redis;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until nobody holds the lease, stops the server whose process stands in `<folder>/pid`, and removes the folder.
/// A process is the server's only if it works in that folder: a number alone may belong to anybody by then.
const KEEPER: &str = r#"
lock=$1 lease=$2 folder=$3 grace=$4
while :; do
  flock -x "$lease" true || exit 1
  sleep "$grace"
  exec 9>>"$lock"
  flock -x 9
  flock -n -x "$lease" true && break
  exec 9>&-
done
pid=$(cat "$folder/pid" 2>/dev/null)
ours() { case "$(readlink "/proc/$pid/cwd" 2>/dev/null)" in "$folder"*) true ;; *) false ;; esac; }
if [ -n "$pid" ] && ours; then
  children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null)
  kill -QUIT "$pid"
  kill -CONT "$pid" $children
  tries=0
  while ours && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
  ours && kill -KILL "$pid"
fi
tries=0
until rm -rf "$folder" 2>/dev/null || [ $tries -ge 50 ]; do sleep 0.1; tries=$((tries + 1)); done
"#;

/// Where the lock files of all test programs of this checkout are.
fn state() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("test-services");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Opens a file for its lock; it is never removed, so everybody locks the same one.
fn lock_file(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Makes a folder for a server, where another user can reach it: a target directory may be private to its owner.
fn fresh_folder(kind: &str) -> PathBuf {
    let roots = [PathBuf::from("/var/tmp"), std::env::temp_dir()];
    let root = roots.iter().find(|root| root.is_dir()).unwrap();
    let folder = tempfile::Builder::new().prefix(&format!("stent-{kind}-")).tempdir_in(root).unwrap();
    folder.keep()
}

/// Starts the keeper of the server in `folder`.
fn keep(lock: &Path, lease: &Path, folder: &Path, grace: u32) -> Child {
    // A session of its own: what ends the tests (Ctrl-C, a closed terminal) must not end who cleans up behind them.
    Command::new("setsid")
        .args(["sh", "-c", KEEPER, "stent-keeper"])
        .args([lock.as_os_str(), lease.as_os_str(), folder.as_os_str(), grace.to_string().as_ref()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid, sh and flock are part of every Debian")
}

/// A folder with a server that belongs to one test, and who cleans up behind it.
struct Home {
    folder: PathBuf,
    lease: Option<File>,
    keeper: Child,
}

impl Home {
    fn new(kind: &str) -> Home {
        let folder = fresh_folder(kind);
        let path = folder.join("lease");
        let lease = lock_file(&path);
        lease.lock_shared().unwrap();
        let keeper = keep(&folder.join("lock"), &path, &folder, 0);
        Home { folder, lease: Some(lease), keeper }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.lease.take();
        let _ = self.keeper.wait();
    }
}

/// Returns a free port below those that the system gives to outgoing connections, so that a server finds it free again
/// when it is started a second time.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(n % 12_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(i32::try_from(pid).unwrap()) {
        let _ = kill_process(pid, signal);
    }
}

/// Tells whether a process works in this folder: it lives, and its number was not given to another.
fn works_in(pid: u32, folder: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(folder))
}

/// Returns the children of a process.
fn children(of: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| -> Option<u32> {
        // `pid (name) state ppid …`; a name may hold blanks and brackets.
        fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}

/// Looks every few milliseconds until something holds.
pub(crate) fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Returns what `find` finds, after installing the packages if it finds nothing.
fn installed(packages: &[&str], find: impl Fn() -> Option<PathBuf>) -> PathBuf {
    if let Some(found) = find() {
        return found;
    }
    let turn = lock_file(&state().join("install.lock"));
    turn.lock().unwrap();
    let mut said = String::new();
    if find().is_none() {
        let sudo: &[&str] = if is_root() { &[] } else { &["sudo", "-n"] };
        for arguments in [vec!["update"], [&["install", "-y", "--no-install-recommends"], packages].concat()] {
            let words: Vec<&str> =
                sudo.iter().copied().chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]).chain(arguments).collect();
            match Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => said += &String::from_utf8_lossy(&output.stderr),
                Err(e) => said += &format!("{}: {e}\n", words[0]),
            }
        }
    }
    find().unwrap_or_else(|| {
        let packages = packages.join(" ");
        panic!(
            "these tests need {packages}, and it could not be installed from here. As root: apt-get install -y {packages} \
             (or let the user of these tests run sudo without a password).\n{said}"
        )
    })
}

/// Returns where a program is, if it is.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/sbin".into(), "/usr/local/bin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Waits for a child that was told to end.
fn ended(mut child: Child, what: &str) {
    until(what, PATIENCE, || child.try_wait().unwrap().is_some());
}
