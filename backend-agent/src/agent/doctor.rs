//! Answers to `pressrun doctor`: what this agent heard, and bursts for it to hear.

use std::net::SocketAddr;
use std::time::Duration;

use common::ids::ServerId;
use lan_channel::doctor::fresh_group;
use protocol::doctor::{BURST_TIME_MAX, Message, Output};
use protocol::reach::Way;

use super::{Agent, Event};
use crate::worker::wall_time;

/// Frames of a burst are sent so often.
const TICK: Duration = Duration::from_millis(5);

/// Who asked for a burst.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    server: ServerId,
    address: SocketAddr,
}

impl Agent {
    pub(super) fn doctor(&mut self, datagram: &[u8], address: SocketAddr, way: Way) {
        let (sender, body) = match self.doctor.open(datagram, wall_time()) {
            Ok(opened) => opened,
            Err(error) => return tracing::trace!(from = %address, %error, "a doctor's datagram is dropped"),
        };
        let message: Message = match postcard::from_bytes(&body) {
            Ok(message) => message,
            Err(error) => return tracing::debug!(from = %address, %error, "a doctor's message cannot be read"),
        };
        let now = self.clock.now();
        self.responder.handle_message(sender.server, way, &message, rand::random(), now);
        let asker = Asker { server: sender.server, address };
        while let Some(output) = self.responder.poll_output() {
            match output {
                Output::Reply(message) => self.say_to_doctor(asker, &message),
                Output::Burst { check, frames, frame_bytes, fresh } => {
                    tracing::info!(asker = %sender.name, frames, "multicasts test frames");
                    let addresses = self.channels.addresses;
                    let group = if fresh { fresh_group(check, addresses) } else { addresses.data };
                    self.burst(asker, check, group, (frames, frame_bytes));
                }
            }
        }
    }

    fn say_to_doctor(&self, to: Asker, message: &Message) {
        let body = postcard::to_stdvec(message).expect("messages are plain data");
        let datagram = self.doctor.seal(&self.identity.control_key, Some(to.server), &body);
        if let Err(error) = self.channels.control_unicast.try_send_to(&datagram, to.address) {
            tracing::debug!(%error, to = %to.address, "an answer to a doctor was not sent");
        }
    }

    /// Beside the loop, evenly over half the time that a burst may take.
    fn burst(&self, asker: Asker, check: u64, group: SocketAddr, (frames, frame_bytes): (u32, u16)) {
        let (channels, doctor, events) = (self.channels.clone(), self.doctor.clone(), self.events.clone());
        let ticks = u32::try_from((BURST_TIME_MAX / 2).as_millis() / TICK.as_millis()).unwrap_or(1);
        let per_tick = frames.div_ceil(ticks).max(1);
        tokio::spawn(async move {
            let mut sent = 0;
            for number in 1..=frames {
                let frame = doctor.frame(check, number, frame_bytes);
                sent += u32::from(channels.control_unicast.try_send_to(&frame, group).is_ok());
                if number % per_tick == 0 {
                    tokio::time::sleep(TICK).await;
                }
            }
            // Fails only when the agent has stopped.
            events.send(Event::BurstOver { asker, check, frames: sent }).await.ok();
        });
    }

    pub(super) fn burst_over(&mut self, asker: Asker, check: u64, frames: u32) {
        self.responder.burst_over(self.clock.now());
        self.say_to_doctor(asker, &Message::Sent { check, frames });
    }
}
