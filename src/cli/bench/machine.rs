//! What a figure depends on besides the code: the machine, the disk, and the command that was given. What the system does not
//! tell is left out.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine that a line was measured on.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub(super) struct Machine {
    /// The model of its processor.
    pub(super) cpu: Option<String>,
    /// Cores that this process may use.
    pub(super) cores: Option<u64>,
    pub(super) kernel: Option<String>,
    pub(super) memory_mb: Option<u64>,
    /// The file system of the database; unknown for a server.
    pub(super) disk: Option<String>,
}

impl Machine {
    /// Looks around; `data` is where the database lies, if it lies here.
    pub(super) fn here(data: Option<&Path>) -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let memory_kb: Option<u64> = field(&read("/proc/meminfo"), "MemTotal").and_then(|kb| kb.split(' ').next()?.parse().ok());
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        Machine {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().ok().map(|cores| cores.get() as u64),
            kernel: (!kernel.is_empty()).then_some(kernel),
            memory_mb: memory_kb.map(|kb| kb / 1024),
            disk: data.and_then(|data| data.canonicalize().ok()).and_then(|data| file_system(&data, &read("/proc/self/mounts"))),
        }
    }

    /// Returns all but the disk, which may be another one in each line, in one sentence; empty if nothing is known.
    pub(super) fn words(&self) -> String {
        let known = [
            self.cpu.clone(),
            self.cores.map(|cores| if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") }),
            self.memory_mb.map(|mb| format!("{mb} MB of memory")),
            self.kernel.as_ref().map(|kernel| format!("kernel {kernel}")),
        ];
        known.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Returns the first value of a name in a file of `name : value` lines.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    })
}

/// Returns the file system that an absolute path is on: that of the longest mount point above it; of equals the last one, which
/// hides the others.
fn file_system(path: &Path, mounts: &str) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, kind)| kind.to_owned())
}

/// Returns the command of this process for a line of results: the URL of a server, which may hold a password and leads
/// nobody else anywhere, is left out.
pub(super) fn command(arguments: impl IntoIterator<Item = String>) -> String {
    let mut words = vec!["stent".to_owned()];
    words.extend(arguments.into_iter().skip(1).map(|word| {
        let at = if word.starts_with('-') { word.find('=').map_or(0, |at| at + 1) } else { 0 };
        let (option, value) = word.split_at(at);
        let value = match value.split_once("://") {
            Some((scheme, _)) if scheme.starts_with("postgres") => format!("{scheme}://…"),
            _ => value.to_owned(),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,…".contains(c);
        let word = format!("{option}{value}");
        if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    }));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_nearest_mount_above_it() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /data xfs rw 0 0\n/dev/c /data btrfs rw 0 0\n";
        assert_eq!(file_system(Path::new("/home/x"), mounts).as_deref(), Some("ext4"));
        assert_eq!(file_system(Path::new("/tmp/x/y"), mounts).as_deref(), Some("tmpfs"));
        assert_eq!(file_system(Path::new("/tmpfile"), mounts).as_deref(), Some("ext4"));
        assert_eq!(file_system(Path::new("/data/x"), mounts).as_deref(), Some("btrfs"));
        assert_eq!(file_system(Path::new("/x"), ""), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: A CPU @ 2.1: fast\nmodel name\t: second\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A CPU @ 2.1: fast"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn a_command_can_be_typed_again_and_tells_no_password() {
        let given = |words: &[&str]| command(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(given(&["/x/stent", "bench", "chain", "--steps", "5"]), "stent bench chain --steps 5");
        assert_eq!(given(&["s", "--url", "sqlite:my file.db"]), "stent --url 'sqlite:my file.db'");
        for words in [&["s", "--url", "postgres://u:secret@h/d"][..], &["s", "--url=postgresql://u:secret@h/d?x=1"]] {
            let told = given(words);
            assert!(!told.contains("secret") && told.ends_with("://…"), "{told}");
        }
    }
}
