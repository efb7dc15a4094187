//! The rounds of the mesh thread: what came is taken in, what is overdue is judged, what is due is sent, all at once.
//!
//! The kernel stamps when packets come, so nobody has to be awake then: between two rounds the thread sleeps, and one waking up serves
//! many packets. Where stamps of the kernel cannot be believed at present, or others than agents may ask, the thread is woken by what
//! comes instead.

use std::time::Duration;

use anyhow::Context as _;
use lagmesh_model::time::RawNanos;
use tokio::time::sleep;

use crate::mesh::doors::{Door, Doors};
use crate::mesh::line::{Lines, Ready};
use crate::mesh::responder::Waiting;
use crate::mesh::schedule::{Every, until_round};
use crate::mesh::sender::{run_errand, send_probe, take_in};
use crate::mesh::shared::Shared;

/// Peers are judged so often.
const JUDGE_EVERY: Duration = Duration::from_millis(100);
/// A round that has so much to do is followed by the next one soon: the sockets hold only so much.
const BUSY: usize = 256;
/// How soon: the runtime's timers know no less.
const SOON: Duration = Duration::from_millis(1);

/// What a round leaves to the next.
#[derive(Debug)]
struct Rounds {
    /// All that had come by then has been read.
    read: RawNanos,
    judging: Every,
    /// Whether this round began as soon as something came.
    prompt: bool,
}

/// How much a round had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Usual,
    Busy,
    /// Something still waits.
    Left,
}

/// Goes round for ever.
///
/// # Errors
/// If the kernel refuses to say which sockets have something.
pub async fn go_round(shared: &Shared, lines: &Lines, doors: &mut Doors) -> anyhow::Result<()> {
    let begun = shared.with(|_, now| now.raw);
    let mut rounds = Rounds { read: begun, judging: Every::new(JUDGE_EVERY, begun), prompt: false };
    loop {
        match rounds.round(shared, lines, doors)? {
            Load::Left => tokio::task::yield_now().await,
            Load::Busy => sleep(SOON).await,
            Load::Usual => rounds.prompt = pause(shared, lines).await?,
        }
    }
}

/// Sleeps until the next round, or until something comes where that must not wait. Then this thread really waits: that is no longer
/// than a round, and its other parts can. Says whether it was so.
async fn pause(shared: &Shared, lines: &Lines) -> anyhow::Result<bool> {
    let (until_next, eager) = shared.with(|engine, now| (until_round(now.raw, engine.round()), engine.is_eager(now.raw)));
    if eager {
        lines.wait(until_next).context("wait for mesh packets")?;
        tokio::task::yield_now().await;
    } else {
        sleep(until_next).await;
    }
    Ok(eager)
}

impl Rounds {
    fn round(&mut self, shared: &Shared, lines: &Lines, doors: &mut Doors) -> anyhow::Result<Load> {
        let begun = shared.with(|_, now| now.raw);
        let (ready, mut all) = lines.look().context("ask which mesh sockets have something")?;
        let mut packets = ready.len();
        // Answers first: requests may wait, their answers say for how long.
        for one in &ready {
            if let Ready::Flow { peer, flow, queued } = *one {
                all &= take_in(shared, lines, (peer, flow), queued, self.prompt);
            }
        }
        if all {
            self.read = begun;
        }
        for (door, responder) in [(Door::Agents, &mut doors.agents), (Door::Strangers, &mut doors.strangers)] {
            if !ready.contains(&Ready::Reflector(door)) {
                responder.nothing_waits(begun);
                continue;
            }
            let Waiting { taken, all: answered } = responder.answer_waiting(shared);
            packets += taken;
            // For strangers nobody goes without sleep.
            all &= answered || door == Door::Strangers;
        }
        let judge = self.judging.is_due(begun);
        if judge {
            self.judging = self.judging.done(begun);
            doors.follow(shared);
        }
        packets += self.send(shared, lines, judge);
        shared.publish(begun);
        shared.hand_over(begun);
        Ok(if !all {
            Load::Left
        } else if packets >= BUSY {
            Load::Busy
        } else {
            Load::Usual
        })
    }

    fn send(&self, shared: &Shared, lines: &Lines, judge: bool) -> usize {
        let (due, errands) = shared.with(|engine, now| (engine.due(self.read, judge, now), engine.errands(now)));
        for (peer, flow) in &due {
            send_probe(shared, lines, *peer, *flow);
        }
        for (peer, errand) in &errands {
            run_errand(shared, lines, *peer, errand);
        }
        due.len() + errands.len()
    }
}
