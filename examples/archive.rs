//! A real job: hashes and compresses every regular file of a directory tree.
//!
//! `cargo run --release --example archive -- <dir> <out>`
//!
//! `<out>` mirrors the tree with `.zst` files; `MANIFEST.sha256` has their hashes (`cd <out> && sha256sum -c --quiet
//! MANIFEST.sha256`), `SOURCES.sha256` those of the originals, and `FAILED.txt` names each file that could not be done, and why.
//!
//! Kill it at any moment and give the same command again: it goes on. A file whose result was recorded is not touched again;
//! `processed.log` has a line for each time that a file was processed (key of the call, attempt, process, path), so anyone can
//! check. When everything is finished, a further start says so and does nothing. `archive.db` is its memory; remove `<out>` to
//! begin anew.

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs::{self, File},
    io::{self, ErrorKind, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, LazyLock},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};
use stent::{kernel::limits::Limits, prelude::*, store::Status};
use walkdir::WalkDir;

/// How many files are under way at once. A number of the workflow's code and not of the machine, because a replay elsewhere must
/// make the same calls; how many of them really run at once is the node's business (`Builder::activities`).
const AT_ONCE: usize = 64;

/// How many bytes of names a page of the listing has: one recorded value is limited to 2 MiB.
const PAGE: usize = 512 << 10;

/// Archives a tree. The same two directories are the same execution.
#[derive(Serialize, Deserialize)]
struct Archive {
    from: String,
    to: String,
}

#[derive(Serialize, Deserialize)]
struct Summary {
    files: usize,
    failed: usize,
    bytes_in: u64,
    bytes_out: u64,
}

impl Workflow for Archive {
    const NAME: &'static str = "example.archive";
    type Output = Summary;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Summary, AppError> {
        let (from, to) = (PathBuf::from(self.from), PathBuf::from(self.to));

        // What there is to do is looked up once and recorded, page by page: later changes of the tree change no plan.
        let mut found: Vec<Found> = Vec::new();
        loop {
            let (from, to, after) = (from.clone(), to.clone(), found.last().map(|file| file.path.clone()));
            let page = cx.blocking("list", move || Ok::<_, AppError>(list(&from, &to, after.as_deref()))).await?;
            found.extend(page.files);
            if !page.more {
                break;
            }
        }

        let files: Vec<PathBuf> = found.iter().map(|file| to.join(&file.path)).collect();
        cx.blocking("make the folders", move || Ok::<_, AppError>(make_folders(&files))).await?;

        BAR.set_length(found.len() as u64);
        let done = Cell::new(0);
        let results = cx
            .map(&found, async |file| {
                let result = match &file.problem {
                    Some(problem) => Ok(Packed::Failed(problem.clone())),
                    None => {
                        let pack = Pack { path: file.path.clone() };
                        cx.call(pack).retry(Retry::exponential(millis(200)).cap(secs(30))).await
                    }
                };
                done.set(done.get() + 1);
                BAR.set_position(done.get());
                match result {
                    // A file that cannot be done, whatever the reason, is an entry in the report and not the end.
                    Err(error) if error != CallError::Cancelled => Ok(Packed::Failed(error.to_string())),
                    result => result,
                }
            })
            .concurrency(AT_ONCE)
            .await?;

        let results: Vec<(String, Packed)> = found.into_iter().map(|file| file.path).zip(results).collect();
        Ok(cx.blocking("write the manifests", move || write_manifests(&to, &results)).await?)
    }
}

/// How far it is, for people. Nothing depends on it, so a replay may set it again.
static BAR: LazyLock<ProgressBar> = LazyLock::new(|| {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} files, {eta} left");
    ProgressBar::with_draw_target(None, target).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
});

// What there is to do.

#[derive(Serialize, Deserialize)]
struct Page {
    files: Vec<Found>,
    more: bool,
}

/// A file of the tree, or a place of it that could not be looked at.
#[derive(Serialize, Deserialize)]
struct Found {
    path: String,
    problem: Option<String>,
}

/// Lists the files whose paths come behind `after`. Each page walks anew: that is cheap, and no path can occur twice.
fn list(from: &Path, to: &Path, after: Option<&str>) -> Page {
    let below = |path: &Path| path.strip_prefix(from).unwrap_or(path).to_path_buf();
    let found = |entry: walkdir::Result<walkdir::DirEntry>| match entry {
        Ok(entry) if !entry.file_type().is_file() => None,
        Ok(entry) => Some(match below(entry.path()).into_os_string().into_string() {
            Ok(path) => Found { path, problem: None },
            Err(path) => Found { path: path.to_string_lossy().into_owned(), problem: Some("its name is not UTF-8".to_owned()) },
        }),
        Err(error) => {
            let path = error.path().map(below).unwrap_or_default().to_string_lossy().into_owned();
            Some(Found { path, problem: Some(error.to_string()) })
        }
    };
    let walk = WalkDir::new(from).into_iter().filter_entry(|entry| entry.path() != to);
    let mut files: Vec<Found> = walk.filter_map(found).filter(|file| after.is_none_or(|after| *file.path > *after)).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut bytes = 0;
    let fit = files.iter().take_while(|file| {
        bytes += file.path.len() + file.problem.as_ref().map_or(0, String::len) + 16;
        bytes <= PAGE
    });
    let fit = fit.count();
    let more = fit < files.len();
    files.truncate(fit);
    Page { files, more }
}

/// Makes the folders of these files, durably, and returns how many. What cannot be made is reported by the files of it.
fn make_folders(files: &[PathBuf]) -> usize {
    let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).flat_map(Path::ancestors).collect();
    let make = |folder: &&Path| fs::create_dir(folder).and_then(|()| sync_folder_of(folder)).is_ok();
    folders.into_iter().filter(|folder| !folder.is_dir()).filter(make).count()
}

// What is done to a file.

/// Packs one file.
#[derive(Serialize, Deserialize)]
struct Pack {
    path: String,
}

#[derive(Serialize, Deserialize)]
enum Packed {
    Done { source: String, packed: String, bytes_in: u64, bytes_out: u64 },
    Failed(String),
}

impl Activity for Pack {
    const NAME: &'static str = "example.archive.pack";
    type Output = Packed;
    type Error = AppError;
}

/// Whose fault it is: the file's, then it is reported; or that of the place for the result, then it is tried again.
enum Trouble {
    Source(io::Error),
    Target(io::Error),
}

/// Where from, where to, and the log of what was done.
struct Packer {
    from: PathBuf,
    to: PathBuf,
    log: File,
}

impl Packer {
    /// Bears to be repeated at any point: the result appears under its name whole and on disk, or not at all.
    fn pack(&self, call: &Call<Pack>) -> Result<Packed, AppError> {
        // Each attempt has a temporary file of its own: one that was given up may still be writing. It removes the others'.
        let key = call.key();
        let position = key.rsplit('/').next().unwrap_or_default();
        let temporary = |attempt: u32| self.to.join(format!(".archive-{position}-{attempt}.tmp"));
        (1..call.attempt()).for_each(|attempt| drop(fs::remove_file(temporary(attempt))));

        let result = self.compress(&call.path, &temporary(call.attempt()));
        if result.is_err() {
            let _ = fs::remove_file(temporary(call.attempt()));
        }
        let packed = match result {
            Ok(packed) => packed,
            Err(Trouble::Source(error)) => Packed::Failed(format!("cannot be read: {error}")),
            Err(Trouble::Target(error)) if in_the_way(error.kind()) => Packed::Failed(format!("cannot be written: {error}")),
            Err(Trouble::Target(error)) => {
                BAR.suspend(|| eprintln!("{}: attempt {} failed, it is tried again: {error}", call.path, call.attempt()));
                return Err(error.into());
            }
        };
        let line = format!("{key}\t{}\t{}\t{}\n", call.attempt(), std::process::id(), call.path.escape_debug());
        (&self.log).write_all(line.as_bytes())?;
        Ok(packed)
    }

    fn compress(&self, path: &str, temporary: &Path) -> Result<Packed, Trouble> {
        let mut file = File::open(self.from.join(path)).map_err(Trouble::Source)?;
        let target = self.to.join(format!("{path}.zst"));
        let out = File::create(temporary).map_err(Trouble::Target)?;
        let hashed = Hashed { inner: out, hash: Sha256::new(), bytes: 0 };
        let mut encoder = zstd::Encoder::new(hashed, 3).map_err(Trouble::Target)?;

        let (mut hash, mut bytes_in, mut buffer) = (Sha256::new(), 0, vec![0; 64 << 10]);
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Source(error)),
            };
            hash.update(&buffer[..read]);
            bytes_in += read as u64;
            encoder.write_all(&buffer[..read]).map_err(Trouble::Target)?;
        }
        let out = encoder.finish().map_err(Trouble::Target)?;
        put(&out.inner, temporary, &target).map_err(Trouble::Target)?;
        Ok(Packed::Done { source: hex(hash), packed: hex(out.hash), bytes_in, bytes_out: out.bytes })
    }
}

/// Passes on what is written, and hashes and counts it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(hash: Sha256) -> String {
    format!("{:x}", hash.finalize())
}

/// Tells whether something that will not go away by itself is where the result belongs.
fn in_the_way(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, InvalidFilename, IsADirectory, NotADirectory};
    matches!(kind, AlreadyExists | InvalidFilename | IsADirectory | NotADirectory)
}

/// Gives a finished file its name, durably.
fn put(file: &File, temporary: &Path, target: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::create_dir_all(target.parent().unwrap_or(target))?;
    fs::rename(temporary, target)?;
    sync_folder_of(target)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

// What is said about it.

fn write_manifests(to: &Path, results: &[(String, Packed)]) -> Result<Summary, AppError> {
    let (mut manifest, mut sources, mut failures) = (String::new(), String::new(), String::new());
    let mut summary = Summary { files: results.len(), failed: 0, bytes_in: 0, bytes_out: 0 };
    for (path, result) in results {
        match result {
            Packed::Done { source, packed, bytes_in, bytes_out } => {
                manifest += &line(packed, &format!("{path}.zst"));
                sources += &line(source, path);
                summary.bytes_in += bytes_in;
                summary.bytes_out += bytes_out;
            }
            Packed::Failed(why) => {
                failures += &format!("{}: {why}\n", path.escape_debug());
                summary.failed += 1;
            }
        }
    }
    for (name, text) in [("MANIFEST.sha256", manifest), ("SOURCES.sha256", sources), ("FAILED.txt", failures)] {
        let temporary = to.join(format!(".{name}.tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        put(&file, &temporary, &to.join(name))?;
    }
    Ok(summary)
}

/// A line as `sha256sum` writes it: where a name needs escaping, a backslash at the beginning says so.
fn line(hash: &str, path: &str) -> String {
    let escaped = path.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    let mark = if escaped == path { "" } else { "\\" };
    format!("{mark}{hash}  {escaped}\n")
}

// The program around it.

#[actix::main]
async fn main() -> ExitCode {
    match archive().await {
        Ok(summary) if summary.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("archive: {error}");
            ExitCode::from(2)
        }
    }
}

async fn archive() -> Result<Summary, Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(from), Some(to), None) = (args.next(), args.next(), args.next()) else {
        return Err("give two directories: archive <dir> <out>".into());
    };
    let from = from.canonicalize().map_err(|e| format!("{}: {e}", from.display()))?;
    fs::create_dir_all(&to)?;
    let to = to.canonicalize()?;
    if !from.is_dir() || from.starts_with(&to) {
        return Err("<dir> must be a directory, and not be in <out>".into());
    }
    let (Some(from_text), Some(to_text)) = (from.to_str(), to.to_str()) else {
        return Err("the names of both directories must be UTF-8".into());
    };

    // Killing it is allowed, and often: an attempt that was lost with its process says nothing against the file.
    let mut limits = Limits::default();
    limits.lost_attempts = 10_000;
    let log = File::options().create(true).append(true).open(to.join("processed.log"))?;
    let packer = Arc::new(Packer { from: from.clone(), to: to.clone(), log });
    let supervisor = Stent::open(&format!("sqlite:{}", to.join("archive.db").display()))
        .workflow::<Archive>()
        .activity(async move |call: Call<Pack>| {
            let packer = packer.clone();
            tokio::task::spawn_blocking(move || packer.pack(&call)).await?
        })
        .limits(limits)
        .activities(4 * std::thread::available_parallelism().map_or(1, usize::from))
        .start()
        .await?;

    // The id follows from the directories, so the same command finds its execution again, finished or not.
    let id = format!("archive-{:.32}", hex(Sha256::new().chain_update(from_text).chain_update("\0").chain_update(to_text)));
    let known = supervisor.send(Describe::new(&id)).await??;
    let archive = Archive { from: from_text.to_owned(), to: to_text.to_owned() };
    let handle = supervisor.send(Dispatch::new(archive).id(&id)).await??;
    match known.map(|known| known.summary.status) {
        Some(Status::Completed) => println!("finished already, nothing to do (remove {} to begin anew)", to.display()),
        Some(_) => println!("going on with {}", to.display()),
        None => println!("archiving {} into {}", from.display(), to.display()),
    }

    let summary = loop {
        if let Ok(result) = tokio::time::timeout(secs(2), handle.result()).await {
            break result?;
        }
        // An execution that cannot go on says why; then there is no point in waiting.
        if let Some(known) = supervisor.send(Describe::new(&id)).await??
            && let Some(reason) = known.summary.reason
        {
            return Err(format!("it cannot go on: {reason}").into());
        }
    };
    BAR.finish_and_clear();
    let Summary { files, failed, bytes_in, bytes_out } = &summary;
    println!("{files} files, {failed} of them failed; {bytes_in} bytes became {bytes_out}");
    if *failed > 0 {
        println!("what failed, and why, is in {}", to.join("FAILED.txt").display());
    }
    supervisor.send(Shutdown::within(secs(10))).await??;
    Ok(summary)
}
