//! The demonstration's lab: two hosts with weft, and a client outside.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use ::tests::{Container, Daemon, Host, Lab, Process};
use anyhow::{Context, Result, bail};

use crate::command::root;

/// Everything that the probes use.
pub struct Topology {
    /// Host 192.0.2.1 and 2001:db8::1, of examples/demo-a.yaml.
    pub a: Host,
    /// Host 192.0.2.2 and 2001:db8::2, of examples/demo-b.yaml.
    pub b: Host,
    /// 192.0.2.100 and 2001:db8::100, not weft's.
    pub client: Host,
    /// 10.10.0.10 and fd00:10::10 in front, with nginx.
    pub web: Container,
    /// 10.10.0.11 and fd00:10::11 in front, 10.11.0.11 in back.
    pub shop: Container,
    /// 10.11.0.12 in back.
    pub db: Container,
    /// 10.20.0.10 and fd00:20::10 in mesh, on host a.
    pub cache: Container,
    /// 10.20.0.20 and fd00:20::20 in mesh, on host b.
    pub worker: Container,
    /// weft in host a.
    pub weft_a: Daemon,
    /// weft in host b.
    pub weft_b: Daemon,
    _servers: Vec<Process>,
}

impl Topology {
    /// Builds it, starts the daemons and the servers.
    pub fn build(lab: &Lab) -> Result<Self> {
        let wire = lab.segment("192.0.2.0/24")?;
        let a = lab.host("a")?.on(&wire, "192.0.2.1/24")?;
        let b = lab.host("b")?.on(&wire, "192.0.2.2/24")?;
        let client = lab.host("client")?.on(&wire, "192.0.2.100/24")?;
        for (host, address) in [(&a, "2001:db8::1"), (&b, "2001:db8::2"), (&client, "2001:db8::100")] {
            host.ip(&format!("address add {address}/64 dev eth0 nodad"))?;
        }
        // A client that knows the way to the containers' own addresses must not get there all the same.
        client.ip("route add 10.10.0.0/24 via 192.0.2.1")?;
        client.ip("route add fd00:10::/64 via 2001:db8::1")?;
        let [web, shop, db, cache] =
            [a.container("web")?, a.container("shop")?, a.container("db")?, a.container("cache")?];
        let worker = b.container("worker")?;
        let weft_a = a.weft(&example("demo-a.yaml")?)?;
        let weft_b = b.weft(&example("demo-b.yaml")?)?;
        let servers = vec![nginx(&web, lab.directory())?, client.serve_whoami(7)?];
        Ok(Self { a, b, client, web, shop, db, cache, worker, weft_a, weft_b, _servers: servers })
    }
}

fn example(name: &str) -> Result<String> {
    let path = root().join("examples").join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// A real web server that tells the client's address, with all of its files in the lab's directory.
fn nginx(container: &Container, directory: &Path) -> Result<Process> {
    let directory = directory.join("nginx");
    fs::create_dir(&directory)?;
    let configuration = r#"daemon off; master_process off; pid nginx.pid; error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server { listen 80; listen [::]:80; location / { return 200 "nginx greets $remote_addr\n"; } }
}
"#;
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration)?;
    let (prefix, file) = (directory.display(), file.display());
    let mut server = container.spawn(&format!("exec nginx -e stderr -p {prefix} -c {file}"))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !container.curl("http://127.0.0.1/")?.ok() {
        if server.status()?.is_some() || Instant::now() > deadline {
            bail!("nginx does not answer: {}", server.stderr()?);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(server)
}
