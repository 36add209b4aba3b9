//! The same kills for nginx, whose access log is what one would bill from.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::time::sleep;
use uuid::Uuid;

use super::callers::Crowd;
use super::rounds::wait_until;
use super::upstream::Upstream;
use crate::cli::output::{self, Row};
use crate::cli::{Context, Exit, Failure};
use crate::model::chance::Chance;
use crate::model::secret::SecretText;

/// How it is put to the proof.
pub(super) struct Plan {
    pub(super) lasts: Duration,
    pub(super) connections: u16,
    pub(super) seed: u64,
}

/// Kills it again and again, then compares its access log with what the upstream saw.
///
/// # Errors
/// It is not installed, or did not start.
pub(super) async fn run(context: &Context, plan: &Plan, out: &mut dyn Write) -> Result<(), Failure> {
    let folder = context.environment.working_directory();
    let folder = folder.join(format!("octroi_prove_nginx_{}", context.clock.wall().as_millisecond()));
    fs::create_dir(&folder).map_err(|error| failed(&error))?;
    let done = run_in(context, plan, &folder, out).await;
    let _ = fs::remove_dir_all(&folder);
    done
}

async fn run_in(context: &Context, plan: &Plan, folder: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let upstream = Upstream::start().await.map_err(|error| failed(&error))?;
    let data = free_address().map_err(|error| failed(&error))?;
    fs::write(folder.join("nginx.conf"), configuration(folder, data, upstream.address))
        .map_err(|error| failed(&error))?;
    context.tell(&format!("seed {}; nginx as it comes, its access log unbuffered; {}", plan.seed, folder.display()));
    let mut chance = Chance(plan.seed);
    let mut nginx = start(folder).map_err(|error| missing(&error))?;
    let crowd = Crowd::start(data, usize::from(plan.connections), &SecretText::new("none".into()), &mut chance);
    let started = context.clock.monotonic();
    let mut kills = 0_u64;
    while context.clock.monotonic().since(started) < plan.lasts {
        sleep(Duration::from_millis(chance.between(300, 2_500))).await;
        if let Some(status) = nginx.0.try_wait().map_err(|error| failed(&error))? {
            let detail = format!("nginx ended by itself with {status}");
            return Err(Failure::new(Exit::Failed, "nginx", detail));
        }
        kill(&mut nginx).map_err(|error| failed(&error))?;
        kills += 1;
        nginx = start(folder).map_err(|error| failed(&error))?;
    }
    let tally = crowd.stop().await;
    quit(&mut nginx).await.map_err(|error| failed(&error))?;
    let log = fs::read_to_string(folder.join("access.log")).map_err(|error| failed(&error))?;
    let row = compare(&log, &upstream.arrived()).with("kills", kills).with("answered", tally.answers().len());
    output::write_object(&row, context.format, out)?;
    Ok(())
}

/// What the log says of what the upstream saw.
fn compare(log: &str, arrived: &HashSet<Uuid>) -> Row {
    let mut lines: HashMap<Uuid, u32> = HashMap::new();
    for id in log.lines().filter_map(|line| Uuid::parse_str(line.split(' ').next()?).ok()) {
        *lines.entry(id).or_default() += 1;
    }
    let lost = arrived.iter().filter(|id| !lines.contains_key(*id)).count();
    let doubled = lines.values().filter(|count| **count > 1).count();
    Row::new()
        .with("upstream_saw", arrived.len())
        .with("log_lines", log.lines().count())
        .with("lost", lost)
        .with("doubled", doubled)
}

fn configuration(folder: &Path, data: SocketAddr, upstream: SocketAddr) -> String {
    let folder = folder.display();
    let place = |name| format!("    {name}_temp_path {folder}/{name};\n");
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(place).concat();
    format!(
        "daemon off;\nworker_processes 2;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n{places}\
         \x20   log_format proof '$request_id $status';\n    access_log {folder}/access.log proof;\n\
         \x20   server {{\n        listen {data};\n        client_max_body_size 0;\n\
         \x20       location / {{\n            proxy_pass http://{upstream};\n            proxy_http_version 1.1;\n\
         \x20           proxy_set_header Connection '';\n            proxy_set_header X-Request-Id $request_id;\n\
         \x20           add_header X-Request-Id $request_id always;\n        }}\n    }}\n}}\n"
    )
}

/// A running nginx; killed when dropped.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Whatever went wrong: no process is left behind.
        let _ = kill(self);
    }
}

/// In a group of its own, so that its workers can be killed with it.
fn start(folder: &Path) -> io::Result<Nginx> {
    let mut command = Command::new("nginx");
    command.arg("-c").arg(folder.join("nginx.conf")).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Nginx)
}

fn kill(nginx: &mut Nginx) -> io::Result<()> {
    if nginx.0.try_wait()?.is_none()
        && let Some(group) = process(nginx)
    {
        kill_process_group(group, Signal::KILL)?;
    }
    nginx.0.wait().map(drop)
}

async fn quit(nginx: &mut Nginx) -> io::Result<()> {
    if let Some(process) = process(nginx) {
        kill_process(process, Signal::QUIT)?;
    }
    if !wait_until(Duration::from_secs(10), || nginx.0.try_wait().is_ok_and(|ended| ended.is_some())).await {
        kill(nginx)?;
    }
    Ok(())
}

fn process(nginx: &Nginx) -> Option<Pid> {
    i32::try_from(nginx.0.id()).ok().and_then(Pid::from_raw)
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, "nginx", format!("nginx could not be put to the proof: {error}"))
}

fn missing(error: &io::Error) -> Failure {
    let detail =
        format!("nginx could not be started: {error}; install it, for example by `apt-get install nginx-light`");
    Failure::new(Exit::Unavailable, "nginx", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_missing_or_stands_twice_is_seen() {
        let [one, two, three] = [1, 2, 3].map(Uuid::from_u128);
        let log = format!("{} 200\n{} 200\n{} 200\n", one.simple(), two.simple(), two.simple());
        let row = compare(&log, &HashSet::from([one, two, three]));
        assert_eq!((row.find("lost"), row.find("doubled")), (&1.into(), &1.into()));
    }
}
