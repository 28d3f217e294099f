//! The processes: nats-servers and two sidecars. Somebody kills one of them every second or two.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::SIDECAR;
use crate::checker::Checker;
use crate::harness::cluster::Cluster;
use crate::harness::{Process, free_port};
use crate::random::Random;

struct Sidecar {
    name: &'static str,
    port: u16,
    admin_port: u16,
    process: Option<Process>,
}

pub(crate) struct Processes {
    cluster: Cluster,
    sidecars: [Sidecar; 2],
    /// Logs of the sidecars.
    dir: PathBuf,
    kills: [usize; 3],
    /// Who was away when.
    history: String,
}

impl Sidecar {
    fn start(&mut self, cluster: &Cluster, dir: &std::path::Path) {
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .current_dir(dir)
            .env(SIDECAR, "1")
            .env("NATS_MQTT__JETSTREAM__REPLICAS", cluster.replicas())
            .args(["--nats", &cluster.urls()])
            .args(["--listen", &address(self.port), "--admin", &address(self.admin_port)]);
        let log = dir.join(format!("sidecar-{}.log", self.name));
        self.process = Some(Process::spawn(self.name, &mut command, &log));
    }
}

impl Processes {
    pub(crate) async fn start(servers: usize) -> Self {
        let cluster = Cluster::start(servers);
        let dir = std::env::temp_dir().join(format!("nats-mqtt-chaos-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let sidecar = |name| Sidecar { name, port: free_port(), admin_port: free_port(), process: None };
        let mut processes =
            Self { cluster, sidecars: [sidecar("a"), sidecar("b")], dir, kills: [0; 3], history: String::new() };
        for sidecar in &mut processes.sidecars {
            sidecar.start(&processes.cluster, &processes.dir);
        }
        processes
    }

    pub(crate) fn ports(&self) -> [u16; 2] {
        [self.sidecars[0].port, self.sidecars[1].port]
    }

    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.cluster.urls().split(',').collect::<Vec<_>>()).await.expect("nats-server")
    }

    pub(crate) fn counts(&self) -> String {
        let [a, b, nats] = self.kills;
        format!("killed: sidecar a {a}, sidecar b {b}, nats-servers {nats}")
    }

    /// The logs of the sidecars stay where they are.
    pub(crate) fn keep_logs(&self) {
        // What cannot be written is not missed.
        let _ = std::fs::write(self.dir.join("history.txt"), &self.history);
        println!("logs of the sidecars, and who was away when: {}", self.dir.display());
    }

    /// Kills one of them every second or two, and starts it again a moment later.
    pub(crate) async fn kill_for(&mut self, time: Duration, which: &str, random: &mut Random, checker: &Checker) {
        let which: Vec<char> = which.chars().collect();
        let (since, mut told) = (Instant::now(), Instant::now());
        while since.elapsed() < time {
            tokio::time::sleep(random.ms(1_000, 2_000)).await;
            let pause = random.ms(50, 1_200);
            let killed_at = checker.elapsed();
            let one = random.below(which.len().max(1));
            match which.get(one) {
                Some('a') => self.kill_sidecar(0, pause, checker).await,
                Some('b') => self.kill_sidecar(1, pause, checker).await,
                Some('n') => self.kill_server(random.below(self.cluster.servers.len()), pause).await,
                _ => continue,
            }
            let (from, to) = (killed_at.as_secs_f64(), checker.elapsed().as_secs_f64());
            self.history.push_str(&format!("{} away from {from:.2} s to {to:.2} s\n", which[one]));
            if told.elapsed() > Duration::from_secs(15) {
                told = Instant::now();
                println!("{:4} s: {}; {}", since.elapsed().as_secs(), self.counts(), checker.progress());
            }
        }
    }

    async fn kill_sidecar(&mut self, n: usize, pause: Duration, checker: &Checker) {
        self.kills[n] += 1;
        checker.kills_sidecar(n);
        let sidecar = &mut self.sidecars[n];
        sidecar.process = None;
        tokio::time::sleep(pause).await;
        sidecar.start(&self.cluster, &self.dir);
    }

    async fn kill_server(&mut self, n: usize, pause: Duration) {
        self.kills[2] += 1;
        self.cluster.servers[n].kill();
        tokio::time::sleep(pause).await;
        let mut server = self.cluster.servers.swap_remove(n);
        let restarted = tokio::task::spawn_blocking(|| {
            server.restart();
            server
        });
        self.cluster.servers.push(restarted.await.expect("nats-server starts"));
    }
}
