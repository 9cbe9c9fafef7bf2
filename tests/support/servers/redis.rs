//! A Redis server that belongs to one test.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use rustix::process::Signal;

use super::{Home, PATIENCE, ended, free_port, installed, on_path, signal, until};

/// A private server. It is stopped and its folder removed when this is dropped, or when the test dies.
pub(crate) struct Redis {
    home: Home,
    port: u16,
    server: Mutex<Option<Child>>,
}

impl Redis {
    /// Starts a server on a free port, with nothing in it and nothing ever written to disk.
    pub(crate) fn own() -> Redis {
        let redis = Redis { home: Home::new("redis"), port: free_port(), server: Mutex::new(None) };
        redis.start();
        redis
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on its port; what was in it before is gone.
    pub(crate) fn start(&self) {
        let binary = installed(&["redis-server"], || on_path("redis-server"));
        let mut server = self.server.lock().unwrap();
        assert!(server.is_none(), "it runs already");
        let log = File::create(self.home.folder.join("log")).unwrap();
        let child = Command::new("setsid")
            .arg(binary)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--dir"])
            .arg(&self.home.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        std::fs::write(self.home.folder.join("pid"), child.id().to_string()).unwrap();
        let child = server.insert(child);
        until("redis answers", PATIENCE, || {
            let exit = child.try_wait().unwrap();
            assert!(exit.is_none(), "{}", std::fs::read_to_string(self.home.folder.join("log")).unwrap());
            self.ping()
        });
    }

    /// Kills it; returns when it is gone.
    pub(crate) fn stop(&self) {
        let Some(child) = self.server.lock().unwrap().take() else { return };
        signal(child.id(), Signal::KILL);
        ended(child, "redis stops");
    }

    pub(crate) fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Stops its process in its tracks: connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        signal(self.server.lock().unwrap().as_ref().expect("it runs").id(), Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        signal(self.server.lock().unwrap().as_ref().expect("it runs").id(), Signal::CONT);
    }

    /// Tells whether it answers within a second.
    pub(crate) fn ping(&self) -> bool {
        self.ask("PING").is_ok_and(|answer| answer == "+PONG")
    }

    /// Sends one inline command and returns the first line of the answer, as it stands in the protocol.
    pub(crate) fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
