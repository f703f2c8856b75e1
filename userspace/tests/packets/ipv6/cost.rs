//! The rows of [`crate::cost`] for IPv6.

use dataplane_common::abi::Path;

use super::{
    arrives,
    frame::Frame,
    sends,
    topology::{A, B, C, FAR, FAR_MAC, HOST, M, REMOTE, publish, with_host},
};
use crate::{
    Result,
    cost::{PAYLOAD, measure},
    host::TCP,
};

pub fn measure_all() -> Result {
    with_host(|host| {
        publish(host, TCP, 80, (&A, 8080))?;
        let bridged = Frame::tcp((B.address, 4000), (A.address, 80)).macs(B.mac(), A.mac()).payload(&PAYLOAD);
        measure("bridge", Path::Bridge, || sends(host, &B, &bridged))?;
        let out = Frame::tcp((A.address, 25_000), (REMOTE, 443)).sent_by(&A).payload(&PAYLOAD);
        measure("masquerade, out", Path::MasqueradeOut, || sends(host, &A, &out))?;
        let back = Frame::tcp((REMOTE, 443), (HOST, 25_000)).by_router().payload(&PAYLOAD);
        measure("masquerade, in", Path::MasqueradeIn, || arrives(host, &back))?;
        let request = Frame::tcp((REMOTE, 4430), (HOST, 80)).by_router().payload(&PAYLOAD);
        measure("published port, in", Path::PortmapIn, || arrives(host, &request))?;
        let answer = Frame::tcp((A.address, 8080), (REMOTE, 4430)).sent_by(&A).payload(&PAYLOAD);
        measure("published port, out", Path::PortmapOut, || sends(host, &A, &answer))?;
        let hairpin = Frame::tcp((C.address, 4430), (HOST, 80)).sent_by(&C).payload(&PAYLOAD);
        measure("hairpin, in", Path::HairpinIn, || sends(host, &C, &hairpin))?;
        let far = Frame::tcp((M.address, 4430), (FAR, 80)).macs(M.mac(), FAR_MAC).payload(&PAYLOAD);
        measure("encapsulation", Path::Encapsulate, || sends(host, &M, &far))
    })
}
