//! What doctor and agents of a segment say to each other.

use std::time::Duration;

use common::ids::{ClusterId, ServerId};
use common::keys::{SecretKey, Signed};
use common::time::{Timestamp, WallTime};
use lan_channel::doctor::DoctorChannel;
use lan_channel::envelope::{DATAGRAM_BYTES_MAX, SegmentKey};
use protocol::doctor::{Answer, Message, Output, Responder};
use protocol::reach::{Transport, Way};
use protocol::session::TAG_BYTES;

use super::segment::{LIFE, credential, publish_key, publish_keys};
use super::{assert_same_again, encoded};
use crate::{Shape, Target};

const SEGMENT_KEY: SegmentKey = SegmentKey([3; 32]);
/// What a datagram is signed for.
const DOMAIN: &str = "pressrun doctor datagram 1";
/// Length of a signature in bytes.
const SIGNATURE_BYTES: usize = 64;
/// Most that is done because of one message.
const OUTPUTS_MAX: usize = 4;

fn channel() -> DoctorChannel {
    let signed = Signed::sign(&credential(2), &publish_key());
    let segment = credential(2).segment;
    DoctorChannel::new(ServerId([7; 16]), ClusterId([9; 16]), segment, SEGMENT_KEY, &signed, publish_keys())
}

fn messages() -> Vec<Message> {
    let answer = Answer { check: 5, way: Way::Multicast, heard: 1, last: 1, transport: Transport::Auto, nonce: 9 };
    vec![
        Message::Probe { check: 5, number: 1 },
        Message::Probe { check: 5, number: 0 },
        Message::Answer(answer),
        Message::Burst { check: 5, nonce: 9, frames: 100, frame_bytes: 1_400, fresh: false },
        Message::Busy { check: 5 },
        Message::Sent { check: 5, frames: 100 },
    ]
}

/// A tag over what anybody of the segment may have said.
fn tagged(bytes: &[u8]) -> Vec<u8> {
    let tag = blake3::keyed_hash(&SEGMENT_KEY.0, bytes);
    [bytes, &tag.as_bytes()[..TAG_BYTES]].concat()
}

/// A datagram or a frame up to its tag, as it is and with the signature made right; what is believed is handed to
/// an agent, with the nonce in it that the agent gave last when it is 9.
pub(super) fn doctor() -> Target {
    let (channel, key) = (channel(), SecretKey::from_bytes(&[2; 32]));
    let mut samples: Vec<Vec<u8>> =
        messages().iter().map(|message| channel.seal(&key, Some(ServerId([7; 16])), &encoded(message))).collect();
    samples.push(channel.frame(5, 1, 100));
    samples.iter_mut().for_each(|sample| sample.truncate(sample.len() - TAG_BYTES));
    let agent = || Responder::new(Transport::Auto);
    let (mut responder, mut nonce, mut now, mut life) = (agent(), 0, Timestamp(1_000_000), 0_u64);
    Target {
        name: "doctor",
        what: "datagrams and test frames of the doctor, and what an agent makes of them",
        bytes_max: DATAGRAM_BYTES_MAX + 64,
        samples,
        check: Box::new(move |input| {
            life += 1;
            if life.is_multiple_of(LIFE) {
                (responder, nonce) = (agent(), 0);
            }
            let number = channel.open_frame(&tagged(input));
            let signed = &input[..input.len().saturating_sub(SIGNATURE_BYTES)];
            let signature = key.sign(DOMAIN, signed);
            let as_it_is = channel.open(&tagged(input), WallTime(1_000));
            let opened = channel.open(&tagged(&[signed, &signature.0].concat()), WallTime(1_000));
            for (sender, _) in as_it_is.iter().chain(&opened) {
                assert_eq!(*sender, credential(2), "only who has the key speaks");
            }
            let (sender, body) = match opened {
                Ok(opened) => opened,
                Err(error) => return Shape::refused(&(error, number.is_some())),
            };
            let mut message = match postcard::from_bytes::<Message>(&body) {
                Ok(message) => message,
                Err(error) => return Shape::refused(&error),
            };
            assert_same_again(&message);
            let given = nonce;
            if let Message::Burst { nonce, .. } = &mut message
                && *nonce == 9
            {
                *nonce = given;
            }
            now = now + Duration::from_millis(20);
            let mut outputs = Vec::new();
            for way in [Way::Multicast, Way::Unicast] {
                responder.handle_message(sender.server, way, &message, life, now);
                while let Some(output) = responder.poll_output() {
                    match &output {
                        Output::Reply(Message::Answer(answer)) => nonce = answer.nonce,
                        Output::Reply(_) => {}
                        Output::Burst { .. } => responder.burst_over(now),
                    }
                    outputs.push(output);
                }
            }
            assert!(outputs.len() <= OUTPUTS_MAX, "{} things are done because of one message", outputs.len());
            Shape::decoded(&(message, outputs))
        }),
    }
}
