//! What goes to and comes from the sockets of the flows, as [`Engine`] says.
//!
//! A probe is stamped by the kernel where that can be believed ([`crate::mesh::kernel`]), else in user space, right before a send and
//! right after a receive: on the safe side for bounds.

use std::io;

use lagmesh_model::state::Outcome;

use crate::mesh::engine::Engine;
use crate::mesh::line::{Connected, Line, Lines, is_too_long, may_be_of_before, outcome_of, outcome_of_number};
use crate::mesh::peer::{Came, PACKET_MAX};
use crate::mesh::reflector::REQUEST_MAX;
use crate::mesh::shared::Shared;
use crate::mesh::socket::{Queued, next_queued, queued, receive, send_with_hop_limit};
use crate::mesh::survey::{Errand, SURVEY_MAX};

/// How many packets of a flow are taken in before others get their turn: a flood on one socket must not silence the mesh. It is more
/// than can be out.
const PACKETS_AT_ONCE: usize = 1024;

/// Takes in what waits at the socket of a flow, stamps and errors first, `prompt` if that is as soon as it came; says whether that was
/// all that can settle a probe.
pub fn take_in(shared: &Shared, lines: &Lines, (peer, flow): (usize, usize), errors: bool, prompt: bool) -> bool {
    let connected = lines.of(peer);
    let Some(line) = connected.as_ref().and_then(|connected| connected.flows.get(flow)) else { return true };
    if errors {
        match line.errors() {
            Ok(found) => settle(shared, peer, flow, line, found),
            Err(error) => tracing::debug!(%error, "read the errors of a mesh socket"),
        }
    }
    let mut packet = [0; REQUEST_MAX];
    for _ in 0..PACKETS_AT_ONCE {
        match receive(&line.socket, &mut packet) {
            Ok(received) => {
                let packet = &packet[..received.length];
                let came = Came { packet, stamp: received.stamp, hops: received.hops, prompt };
                let awaits_more = shared.with(|engine, now| {
                    engine.on_packet(peer, flow, came, now);
                    engine.peers().get(&peer).is_some_and(|peer| peer.awaits(flow))
                });
                // What else there may be settles nothing, and has time until the next look.
                if !awaits_more {
                    return true;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            // Errors that are pending are told at the next look.
            Err(_) => return false,
        }
    }
    false
}

/// Sends the next probe of a flow.
pub fn send_probe(shared: &Shared, lines: &Lines, peer: usize, flow: usize) {
    let connected = lines.of(peer);
    let Some(line) = connected.as_ref().and_then(|connected| connected.flows.get(flow)) else {
        return shared.with(|engine, now| engine.no_socket(peer, flow, now));
    };
    let mut packet = [0; PACKET_MAX];
    let waiting = shared.with(|engine, now| {
        let length = engine.request(peer, flow, now, &mut packet);
        let mut result = line.socket.send(&packet[..length]);
        let mut waiting = Vec::new();
        if result.as_ref().is_err_and(may_be_of_before) {
            // The error may be the answer to an earlier probe, and then this one has not been tried yet.
            waiting = queued(&line.socket);
            waiting.retain(|one| {
                let Queued::Error { number, sequence } = one else { return true };
                engine.on_error(peer, flow, outcome_of_number(*number), *sequence, now);
                false
            });
            result = line.socket.send(&packet[..length]);
        }
        match result {
            Ok(_) => line.ids.borrow_mut().sent(Some(engine.sent(peer, flow, now))),
            // Nothing went out, so a refusal is not about this probe.
            Err(error) => match outcome_of(&error) {
                Outcome::Unreachable => engine.not_sent(peer, flow, Outcome::Unreachable, now),
                _ => engine.not_sent(peer, flow, Outcome::SendError, now),
            },
        }
        waiting
    });
    settle(shared, peer, flow, line, waiting);
    // The stamp of this probe is there already, unless it waits in a queue of the host.
    settle(shared, peer, flow, line, next_queued(&line.socket).into_iter().collect());
}

/// Sends a packet of the survey.
pub fn run_errand(shared: &Shared, lines: &Lines, peer: usize, errand: &Errand) {
    let connected = lines.of(peer);
    let Some((line, ip)) =
        connected.as_deref().and_then(|Connected { address, flows }| Some((flows.get(errand.flow)?, address.ip())))
    else {
        return;
    };
    let mut packet = [0; SURVEY_MAX];
    let length = shared.with(|engine, now| engine.write(peer, errand, now, &mut packet));
    let leave = || match errand.hop_limit {
        Some(limit) => send_with_hop_limit(&line.socket, &packet[..length], ip, limit),
        None => line.socket.send(&packet[..length]).map(drop),
    };
    // The first error may be about a packet of before.
    let sent = leave().or_else(|_| {
        settle(shared, peer, errand.flow, line, queued(&line.socket));
        leave()
    });
    match sent {
        Ok(()) => line.ids.borrow_mut().sent(None),
        Err(error) => shared.with(|engine, now| engine.errand_not_sent(peer, errand, is_too_long(&error), now)),
    }
    settle(shared, peer, errand.flow, line, queued(&line.socket));
}

/// Passes on what a socket's queue held.
fn settle(shared: &Shared, peer: usize, flow: usize, line: &Line, found: Vec<Queued>) {
    if found.is_empty() {
        return;
    }
    if found.contains(&Queued::TooLong) || found.iter().any(|one| matches!(one, Queued::Expired { .. })) {
        // The same is pending at the socket, and would be taken for an error of the next probe.
        line.socket.take_error().unwrap_or_default();
    }
    shared.with(|engine, now| {
        for one in found {
            match one {
                Queued::Error { number, sequence } => {
                    engine.on_error(peer, flow, outcome_of_number(number), sequence, now);
                }
                Queued::Expired { from } => engine.on_expired(peer, flow, from, now),
                Queued::TooLong | Queued::Unclear => {}
                Queued::Left { id, stamp } => left(engine, peer, flow, line, id, stamp),
            }
        }
    });
}

fn left(engine: &mut Engine, peer: usize, flow: usize, line: &Line, id: u32, stamp: lagmesh_model::time::WallNanos) {
    if let Some(sequence) = line.ids.borrow_mut().of(id) {
        engine.on_kernel_stamp(peer, flow, sequence, stamp);
    }
}

#[cfg(test)]
mod tests;
