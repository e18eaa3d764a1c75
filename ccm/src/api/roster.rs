//! Where the servers of a segment are: said by each of them, told to each of them.

use std::net::{IpAddr, SocketAddr};

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use common::ids::ServerName;
use serde::{Deserialize, Serialize};
use transfer::tls::Peer;

use super::ApiState;
use super::extract::{Answer, Body, blocking, ok};
use super::problem::Problem;
use crate::store::ControlAddress;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RosterBody {
    control: SocketAddr,
}

#[derive(Serialize)]
struct PeerView {
    server: String,
    name: ServerName,
    control: SocketAddr,
}

impl From<ControlAddress> for PeerView {
    fn from(peer: ControlAddress) -> Self {
        Self { server: peer.server.to_string(), name: peer.name, control: peer.address }
    }
}

#[derive(Serialize)]
struct RosterView {
    peers: Vec<PeerView>,
}

/// Takes the address of the server that asks, and names those of its segment.
pub(super) async fn exchange(
    State(state): State<ApiState>,
    Extension(peer): Extension<Peer>,
    Body(body): Body<RosterBody>,
) -> Answer {
    let refused = || Problem::new(StatusCode::FORBIDDEN, "not-enrolled", "this server is not enrolled here");
    let Peer::Server(server) = peer else { return Err(refused()) };
    if !is_a_servers(body.control) {
        let detail = format!("{} is no address at which one server can be reached", body.control);
        return Err(Problem::invalid("bad-control-address", detail));
    }
    let peers = blocking(move || {
        let record = state.store.server(&server)?.ok_or_else(refused)?;
        state.store.save_control_address(&server, body.control)?;
        state.store.control_addresses(&record.segment).map_err(Problem::from)
    })
    .await?;
    ok(&RosterView { peers: peers.into_iter().map(PeerView::from).collect() })
}

fn is_a_servers(address: SocketAddr) -> bool {
    let is_broadcast = match address.ip() {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast() && !is_broadcast
}
