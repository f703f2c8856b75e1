//! Traffic for the lab: each subcommand is one kind of server or client, see `tests::traffic`.

use anyhow::{Context, Result};
use clap::Parser;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;
use tests::traffic::{echo, flood, http, latency, request, spread, survey, tcp_bulk, udp_bulk, whoami};

/// Makes traffic and checks what arrives. Results are one line of JSON.
#[derive(Parser)]
struct Arguments {
    /// Stay on this CPU: where the scheduler puts two ends makes more difference than the network between them
    #[arg(long, global = true)]
    cpu: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Receive one TCP connection to its end
    TcpReceive(tcp_bulk::ReceiveOptions),
    /// Send bulk data over one TCP connection
    TcpSend(tcp_bulk::SendOptions),
    /// Receive numbered datagrams
    UdpReceive(udp_bulk::ReceiveOptions),
    /// Send numbered datagrams, plainly or with UDP_SEGMENT
    UdpSend(udp_bulk::SendOptions),
    /// Count datagrams
    UdpSink(flood::SinkOptions),
    /// Send as many datagrams as can be
    UdpFlood(flood::SendOptions),
    /// Send datagrams to many destinations
    UdpSpread(spread::Options),
    /// Return what comes, over TCP and UDP
    EchoServe(echo::ServeOptions),
    /// Send datagrams to an echo server at a steady rate
    UdpPing(echo::PingOptions),
    /// Measure round trips to an echo server
    Latency(latency::Options),
    /// Answer short connections
    RequestServe(request::ServeOptions),
    /// Make short connections at a steady rate
    Requests(request::Options),
    /// Serve one web page
    HttpServe(http::Options),
    /// Tell clients their address, over TCP and UDP
    WhoamiServe(whoami::ServeOptions),
    /// Ask for the address one is seen with
    Whoami(whoami::Options),
    /// Ask many such servers at once
    Survey(survey::Options),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(cpu) = arguments.cpu {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        // Threads started later inherit it.
        sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("--cpu {cpu}"))?;
    }
    match arguments.command {
        Command::TcpReceive(options) => print(&tcp_bulk::receive(&options)?),
        Command::TcpSend(options) => print(&tcp_bulk::send(&options)?),
        Command::UdpReceive(options) => print(&udp_bulk::receive(&options)?),
        Command::UdpSend(options) => print(&udp_bulk::send(&options)?),
        Command::UdpSink(options) => print(&flood::sink(&options)?),
        Command::UdpFlood(options) => print(&flood::send(&options)?),
        Command::UdpSpread(options) => print(&spread::run(&options)?),
        Command::EchoServe(options) => echo::serve(&options),
        Command::UdpPing(options) => print(&echo::ping(&options)?),
        Command::Latency(options) => print(&latency::run(&options)?),
        Command::RequestServe(options) => request::serve(&options),
        Command::Requests(options) => print(&request::run(&options)?),
        Command::HttpServe(options) => http::serve(&options),
        Command::WhoamiServe(options) => whoami::serve(&options),
        Command::Whoami(options) => print(&whoami::ask(&options)?),
        Command::Survey(options) => print(&survey::run(&options)?),
    }
}

fn print(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
