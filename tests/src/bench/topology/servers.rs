//! The servers that the measurements need, but those that serve once.

use std::fs;

use anyhow::{Context, Result};

use crate::{
    Lab, Namespace, Process,
    bench::{
        machine::{two_cpus, without_time_wait},
        measure::{ECHO, HTTP, REDIS, REQUESTS, WHOAMI, wait_until_listening},
    },
};

/// Starts them all; they stay on the second CPU.
pub(super) fn start(lab: &Lab, namespace: &Namespace) -> Result<Vec<Process>> {
    let [_, cpu] = two_cpus()?;
    without_time_wait(namespace)?;
    Ok(vec![
        namespace.serve(&format!("echo-serve [::]:{ECHO} --cpu {cpu}"))?,
        namespace.serve(&format!("request-serve [::]:{REQUESTS} --cpu {cpu}"))?,
        namespace.serve_whoami(WHOAMI)?,
        redis(lab, namespace, cpu)?,
        nginx(lab, namespace, cpu)?,
    ])
}

/// In memory only.
fn redis(lab: &Lab, namespace: &Namespace, cpu: usize) -> Result<Process> {
    let directory = lab.directory().display();
    let mut server = namespace.spawn(&format!(
        "exec taskset -c {cpu} redis-server --port {REDIS} --bind 0.0.0.0 --protected-mode no --save '' \
         --appendonly no --dir {directory}"
    ))?;
    wait_until_listening(namespace, &mut server, REDIS).context("redis-server")?;
    Ok(server)
}

/// One worker with one small page; all of its files are in the lab's directory.
fn nginx(lab: &Lab, namespace: &Namespace, cpu: usize) -> Result<Process> {
    let directory = lab.directory().join(format!("nginx-{}", namespace.netns()));
    fs::create_dir(&directory)?;
    // Connections that end after so many requests would be another measurement.
    let configuration = format!(
        r#"daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{}}
http {{
    access_log off; keepalive_requests 100000000;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{ listen {HTTP}; location / {{ return 200 "hello\n"; }} }}
}}
"#
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration)?;
    let (prefix, file) = (directory.display(), file.display());
    let mut server =
        namespace.spawn(&format!("exec taskset -c {cpu} nginx -e stderr -p {prefix} -c {file}"))?;
    wait_until_listening(namespace, &mut server, HTTP).context("nginx")?;
    Ok(server)
}
