//! The segment's control channel: where this server listens and speaks, and what it remembers of that.

use std::net::SocketAddr;
use std::path::Path;

use common::errors::chain;
use lan_channel::interface::Family;
use protocol::message::Control;
use protocol::relocation::{Output, Version};
use tokio::net::UdpSocket;

use super::Agent;
use crate::identity::{IdentityError, write_private};

/// The control channel that the segment was last moved to: epoch, number, address.
const FILE: &str = "control-channel";

/// What an earlier process noted; `None` when nothing is on record, or nothing that makes sense.
pub(crate) fn remembered(data: &Path) -> Option<(Version, SocketAddr)> {
    let text = std::fs::read_to_string(data.join(FILE)).ok()?;
    let mut words = text.split_whitespace();
    let (epoch, number, channel) = (words.next()?, words.next()?, words.next()?);
    let version = Version { epoch: epoch.parse().ok()?, number: number.parse().ok()? };
    Some((version, common::channel::parse(channel).ok()?))
}

fn remember(data: &Path, version: Version, channel: SocketAddr) -> Result<(), IdentityError> {
    write_private(&data.join(FILE), format!("{} {} {channel}\n", version.epoch, version.number).as_bytes())
}

impl Agent {
    /// Reads what waits on the control channels.
    pub(super) fn read_channels(&mut self, buffer: &mut [u8]) {
        for (channel, socket) in self.controls.sockets() {
            self.read_control(&socket, Some(channel), buffer);
        }
    }

    /// Reads what was said to this server alone.
    pub(super) fn read_own(&mut self, socket: &UdpSocket, buffer: &mut [u8]) {
        self.read_control(socket, None, buffer);
    }

    /// The administrator wants the segment on this channel.
    pub(super) fn order_move(&mut self, to: SocketAddr) {
        let fits = Family::of(to.ip()) == self.channels.addresses.family() && common::channel::check(to).is_ok();
        if !fits {
            tracing::error!(%to, "the segment cannot be moved: that is no channel that it could have");
            return;
        }
        match self.moves.order(to, self.clock.now()) {
            Ok(()) => tracing::info!(%to, "moves the segment to another control channel"),
            Err(error) => tracing::warn!(%to, %error, "the segment is not moved"),
        }
    }

    pub(super) fn pump_moves(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.moves.poll_output() {
            any = true;
            match output {
                Output::Listen(channels) => {
                    for (channel, error) in self.controls.keep(&channels) {
                        tracing::error!(%channel, error = chain(&error), "a control channel cannot be listened to");
                    }
                }
                Output::Speak(channel) => self.control_channel = channel,
                Output::Remember(version, channel) => {
                    if let Err(error) = remember(&self.config.data, version, channel) {
                        // It looks for its leader anew after the next start.
                        tracing::warn!(error = chain(&error), "the control channel cannot be recorded");
                    }
                }
                Output::Say { on, message } => self.say_on(on, &Control::Relocation(message)),
                Output::Tell { to, message } => self.unicast(to, &Control::Relocation(message)),
                Output::Moved(channel) => tracing::info!(%channel, "the segment's control channel is another one"),
                Output::Abandoned { to, missing } => {
                    tracing::error!(%to, ?missing, "the segment stays on its control channel: some members do not obey");
                }
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_channel_is_remembered_and_nonsense_is_not_believed() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(remembered(directory.path()), None);
        let (version, channel) = (Version { epoch: 7, number: 2 }, "[ff18::5]:5000".parse().expect("an address"));
        remember(directory.path(), version, channel).expect("written");
        assert_eq!(remembered(directory.path()), Some((version, channel)));
        for nonsense in ["", "7 2", "7 x 239.1.2.3:5000", "7 2 10.0.0.1:5000"] {
            std::fs::write(directory.path().join(FILE), nonsense).expect("written");
            assert_eq!(remembered(directory.path()), None, "{nonsense}");
        }
    }
}
