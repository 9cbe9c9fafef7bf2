//! PostgreSQL servers: one that all test programs of a run share, and private ones that a test may mistreat.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    Home, PATIENCE, children, ended, free_port, fresh_folder, installed, is_root, keep, lock_file, on_path, signal, state, until,
    works_in,
};

/// So long the shared server waits for the next test program.
const GRACE_SECONDS: u32 = 20;

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Sessions are ended, a checkpoint is written.
    Fast,
    /// All processes leave at once; the next start recovers from the log.
    Immediate,
    /// `kill -9` for every process of it.
    Kill,
}

/// A server.
pub(crate) struct Postgres {
    folder: PathBuf,
    port: u16,
    own: Option<Own>,
    /// What keeps the shared server alive: the lock of this process.
    lease: Option<File>,
}

/// What a private server has besides.
struct Own {
    server: Mutex<Option<Child>>,
    copies: AtomicU32,
    // Dropped last: it stops what still runs and removes the folder.
    home: Home,
}

/// A consistent copy of a server's data as it was at a moment.
#[derive(Debug)]
pub(crate) struct Copied(PathBuf);

impl Postgres {
    /// Returns the server that all test programs of this checkout share; starts it if it does not run. It is not to be
    /// stopped by a test.
    pub(crate) fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| {
            let state = state();
            let lock_path = state.join("postgres.lock");
            let lock = lock_file(&lock_path);
            lock.lock().unwrap();
            let lease_path = state.join("postgres.lease");
            let lease = lock_file(&lease_path);
            lease.lock_shared().unwrap();
            let note = state.join("postgres.state");
            let noted = fs::read_to_string(&note).unwrap_or_default();
            if let Some((folder, port)) = running(&noted) {
                return Postgres { folder, port, own: None, lease: Some(lease) };
            }
            clean_up(&noted);
            let folder = fresh_folder("pg");
            init(&folder);
            let (server, port) = start_on_free_port(&folder);
            // It lives on behind this process, and the keeper ends it.
            #[expect(clippy::zombie_processes, reason = "both outlive this process by intent")]
            let keeper = keep(&lock_path, &lease_path, &folder, GRACE_SECONDS);
            fs::write(&note, format!("{} {port} {} {}\n", folder.display(), server.id(), keeper.id())).unwrap();
            Postgres { folder, port, own: None, lease: Some(lease) }
        })
    }

    /// Starts a private server.
    pub(crate) fn own() -> Postgres {
        let home = Home::new("pg");
        let folder = home.folder.clone();
        init(&folder);
        let (server, port) = start_on_free_port(&folder);
        let own = Own { server: Mutex::new(Some(server)), copies: AtomicU32::new(0), home };
        Postgres { folder, port, own: Some(own), lease: None }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns where its data, its log and its socket are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the URL of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        url(self.port, database)
    }

    /// Makes a fresh, empty database.
    pub(crate) fn database(&self) -> Database<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let micros = chrono::Utc::now().timestamp_micros();
        let name = format!("t_{}_{}_{micros}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("create database {name} template template0"));
        Database { server: self, name }
    }

    /// Runs SQL, and returns the rows: a line each, columns separated by `|`.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// As [`sql`](Self::sql), and an error is returned.
    pub(crate) fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(binary("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql])
            .env("PGCONNECT_TIMEOUT", "10")
            .env("PGAPPNAME", "stent-test-support")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn owned(&self) -> &Own {
        self.own.as_ref().expect("the shared server is not for that; use Postgres::own()")
    }

    /// Stops it; returns when no process of it is left.
    pub(crate) fn stop(&self, how: Stop) {
        let Some(child) = self.owned().server.lock().unwrap().take() else { return };
        let parts = children(child.id());
        match how {
            Stop::Fast => signal(child.id(), Signal::INT),
            Stop::Immediate => signal(child.id(), Signal::QUIT),
            Stop::Kill => {
                signal(child.id(), Signal::KILL);
                parts.iter().for_each(|pid| signal(*pid, Signal::KILL));
            }
        }
        ended(child, "postgres stops");
        until("its processes are gone", PATIENCE, || !parts.iter().any(|pid| works_in(*pid, &self.folder)));
    }

    /// Starts it again, on the same port; returns when it takes connections.
    pub(crate) fn start(&self) {
        let mut server = self.owned().server.lock().unwrap();
        assert!(server.is_none(), "it runs already");
        *server = Some(start(&self.folder, self.port).unwrap_or_else(|log| panic!("{log}")));
    }

    pub(crate) fn restart(&self, how: Stop) {
        self.stop(how);
        self.start();
    }

    /// Stops every process of it in its tracks: connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        let pid = self.pid();
        // The postmaster first: from then on there are no new ones.
        signal(pid, Signal::STOP);
        children(pid).iter().for_each(|pid| signal(*pid, Signal::STOP));
    }

    pub(crate) fn thaw(&self) {
        let pid = self.pid();
        children(pid).iter().for_each(|pid| signal(*pid, Signal::CONT));
        signal(pid, Signal::CONT);
    }

    fn pid(&self) -> u32 {
        self.owned().server.lock().unwrap().as_ref().expect("it runs").id()
    }

    /// Copies its data as they are now: by a base backup while it runs, by file while it is stopped.
    pub(crate) fn copy(&self) -> Copied {
        let own = self.owned();
        let to = self.folder.join(format!("copy-{}", own.copies.fetch_add(1, Ordering::Relaxed)));
        let mut command = if own.server.lock().unwrap().is_some() {
            let mut command = as_postgres(&binary("pg_basebackup"));
            command.args(["-D", &to.display().to_string(), "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            command.args(["-U", "postgres", "-X", "stream", "-c", "fast", "--no-sync"]);
            command
        } else {
            let mut command = as_postgres(Path::new("cp"));
            command.arg("-a").arg(data(&self.folder)).arg(&to);
            command
        };
        run(&mut command);
        Copied(to)
    }

    /// Puts a copy in the place of the server's data and starts it on the same port, as a failover to a replica that was
    /// behind does: what was committed after the copy is gone. The server itself is stopped at once.
    pub(crate) fn fail_over_to(&self, copied: Copied) {
        self.stop(Stop::Immediate);
        fs::remove_dir_all(data(&self.folder)).unwrap();
        fs::rename(copied.0, data(&self.folder)).unwrap();
        self.start();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own
            && let Some(mut child) = own.server.get_mut().ok().and_then(Option::take)
        {
            // A frozen one would not hear that it is to leave.
            let parts = children(child.id());
            signal(child.id(), Signal::QUIT);
            parts.iter().chain([&child.id()]).for_each(|pid| signal(*pid, Signal::CONT));
            let _ = child.wait();
        }
    }
}

/// A database of one test. It is dropped with this.
pub(crate) struct Database<'a> {
    server: &'a Postgres,
    name: String,
}

impl Database<'_> {
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Returns its URL for who reaches the server at another port: through a proxy.
    pub(crate) fn url_at(&self, port: u16) -> String {
        url(port, &self.name)
    }

    pub(crate) fn server(&self) -> &Postgres {
        self.server
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs SQL in it; see [`Postgres::sql`].
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.name, sql)
    }

    pub(crate) fn try_sql(&self, sql: &str) -> Result<String, String> {
        self.server.try_sql(&self.name, sql)
    }

    /// Counts the sessions in it, but for those that look.
    pub(crate) fn connections(&self) -> u32 {
        self.count("true")
    }

    /// Counts the sessions in it of this application name.
    pub(crate) fn connections_of(&self, application: &str) -> u32 {
        self.count(&format!("application_name = '{application}'"))
    }

    fn count(&self, which: &str) -> u32 {
        let others = "backend_type = 'client backend' and application_name <> 'stent-test-support'";
        let sql = format!("select count(*) from pg_stat_activity where datname = '{}' and {others} and {which}", self.name);
        self.server.sql("postgres", &sql).parse().unwrap()
    }

    /// Ends every session in it, as an operator does; returns how many there were.
    pub(crate) fn terminate(&self) -> u32 {
        let sql = format!(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{}' and backend_type = \
             'client backend' and pid <> pg_backend_pid()",
            self.name
        );
        self.server.sql("postgres", &sql).parse().unwrap()
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // The server may be down, or frozen, by the will of the test; a private one is removed as a whole.
        if self.server.own.is_none() {
            let _ = self.server.try_sql("postgres", &format!("drop database if exists {} with (force)", self.name));
        }
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Returns where the newest version's program is, after installing it if need be.
fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
        let debian = versions.filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).is_file()).then_some((version, folder))
        });
        debian.max().map(|(_, folder)| folder).or_else(|| Some(on_path("initdb")?.parent()?.to_owned()))
    };
    FOLDER.get_or_init(|| installed(&["postgresql"], find)).join(name)
}

/// Begins a command as a user that a server of PostgreSQL accepts: it refuses root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setsid");
    if is_root() {
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "env", "HOME=/var/tmp"]);
    }
    command.arg(program).current_dir("/").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an empty cluster in a folder.
fn init(folder: &Path) {
    let initdb = binary("initdb");
    if is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(folder));
    }
    let path = data(folder).display().to_string();
    run(as_postgres(&initdb).args(["-D", &path, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]));
    let settings = [
        "listen_addresses = '127.0.0.1'",
        &format!("unix_socket_directories = '{}'", folder.display()),
        "max_connections = 300",
        "shared_buffers = '64MB'",
        // The point of the store is what survives: a test must not be faster than the truth.
        "fsync = on",
        "synchronous_commit = on",
        "log_line_prefix = '%m [%p] %q%a '",
    ];
    fs::write(data(folder).join("postgresql.auto.conf"), settings.join("\n") + "\n").unwrap();
}

fn start_on_free_port(folder: &Path) -> (Child, u16) {
    let mut said = String::new();
    for _ in 0..20 {
        let port = free_port();
        match start(folder, port) {
            Ok(server) => return (server, port),
            // Somebody else was faster.
            Err(log) => said = log,
        }
    }
    panic!("{said}")
}

/// Starts the server of a folder and waits until it takes connections; returns its log if it gave up.
fn start(folder: &Path, port: u16) -> Result<Child, String> {
    let path = folder.join("log");
    let log = lock_file(&path);
    let begin = log.metadata().unwrap().len();
    let mut child = as_postgres(&binary("postgres"))
        .arg("-D")
        .arg(data(folder))
        .args(["-p", &port.to_string()])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    fs::write(folder.join("pid"), child.id().to_string()).unwrap();
    let pid = child.id().to_string();
    let ready = || {
        let text = fs::read_to_string(data(folder).join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // `setsid` and `setpriv` become what they start, so the number is the child's; a stale file has another.
        lines.first() == Some(&pid.as_str()) && lines.get(7) == Some(&"ready")
    };
    let since = Instant::now();
    while !ready() {
        let text = || fs::read_to_string(&path).unwrap_or_default().get(usize::try_from(begin).unwrap()..).map(str::to_owned);
        if child.try_wait().unwrap().is_some() {
            return Err(text().unwrap_or_default());
        }
        assert!(since.elapsed() < PATIENCE, "postgres does not start: {:?}", text());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

/// Reads the note on the shared server: `<folder> <port> <pid> <keeper>`.
fn read_note(note: &str) -> Option<(PathBuf, u16, u32, u32)> {
    let mut words = note.split_whitespace();
    Some((words.next()?.into(), words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Returns the shared server, if it and its keeper live.
fn running(note: &str) -> Option<(PathBuf, u16)> {
    let (folder, port, server, keeper) = read_note(note)?;
    let kept = fs::read(format!("/proc/{keeper}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&folder.display().to_string()));
    (kept && works_in(server, &folder)).then_some((folder, port))
}

/// Removes what is left of a shared server that lost its process or its keeper.
fn clean_up(note: &str) {
    let Some((folder, _, server, _)) = read_note(note) else { return };
    if works_in(server, &folder) {
        let parts = children(server);
        parts.iter().chain([&server]).for_each(|pid| signal(*pid, Signal::KILL));
        until("the old server is gone", PATIENCE, || !parts.iter().chain([&server]).any(|pid| works_in(*pid, &folder)));
    }
    let ours = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("stent-pg-"));
    if ours {
        let _ = fs::remove_dir_all(folder);
    }
}
