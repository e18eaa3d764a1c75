//! A leader's and its members' drivers with the bytes between them: what is lost on the way is mended by
//! parity that one side made and the other restored. Time is the test's.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};

use common::digest::Digest;
use common::ids::{AssignmentNumber, ClusterId, RunNumber, ServerId, SiteName};
use common::keys::{PublishKey, SecretKey, Signed};
use common::ticket::Ticket;
use common::time::{Timestamp, WallTime};
use group_leader::distribute::{Distribution, Next};
use lan_channel::data::{FrameSink, Taken};
use lan_channel::envelope::SegmentKey;
use lan_channel::frames::FrameKey;
use lan_channel::secrets::{SessionName, SessionSecret};
use pressrun_backend_agent::receive::{Announced, Event, Growth, Receptions};
use protocol::session::{Announcement, FrameHeader, Geometry, Message, SYMBOL_BYTES, SenderConfig, SenderOutput};

const LEADER: ServerId = ServerId([99; 16]);
const SEGMENT_KEY: SegmentKey = SegmentKey([4; 32]);
const OBJECT: Digest = Digest([2; 32]);
const SECRET: SessionSecret = SessionSecret([5; 16]);
const EPOCH: u64 = 7;

struct Member {
    id: ServerId,
    directory: tempfile::TempDir,
    receptions: Receptions,
    /// What it shall verify: the session, the file, and how far it is.
    verifies: Option<(u32, PathBuf, Growth)>,
    complete: bool,
    /// It has every byte, and not the right ones.
    spoiled: bool,
}

impl Member {
    fn new(number: u8) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let id = ServerId([number; 16]);
        let receptions = open(directory.path(), id);
        Self { id, directory, receptions, verifies: None, complete: false, spoiled: false }
    }
}

fn open(directory: &Path, id: ServerId) -> Receptions {
    Receptions::new(directory, id, SEGMENT_KEY).expect("the directory is ours")
}

/// Takes all frames there are.
struct Sink<'a>(&'a mut Vec<Vec<u8>>);

impl FrameSink for Sink<'_> {
    fn frames_max(&self, _: usize) -> usize {
        7
    }

    fn offer(&mut self, frames: &[u8], frame_bytes: usize) -> Taken {
        self.0.extend(frames.chunks(frame_bytes).map(<[u8]>::to_vec));
        Taken::Yes
    }
}

struct Segment {
    object: Vec<u8>,
    ticket: Ticket,
    distribution: Distribution,
    members: Vec<Member>,
    now: Timestamp,
    chance: u64,
    /// Of a thousand frames, so many are lost by each member.
    loss: u64,
    frames: u32,
    parity_frames: u32,
    finished: bool,
    /// The secret under which somebody seals a wrong frame for every honest one, if anybody does.
    forger: Option<SessionSecret>,
}

impl Segment {
    fn new(bytes: usize, members: u8, loss: u64, config: SenderConfig) -> Self {
        let object: Vec<u8> = (0..bytes as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&object).expect("it can be written");
        file.rewind().expect("it is a file");
        let ticket = Ticket {
            cluster: ClusterId([1; 16]),
            site: SiteName::new("site").expect("a good name"),
            assignment: AssignmentNumber(1),
            run: RunNumber(1),
            object: OBJECT,
            length: bytes as u64,
            chunk_bytes: 65_536,
            targets: Vec::new(),
            expires: WallTime(1),
            channel: None,
        };
        let key = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[3; 32]) };
        let signed = Signed::sign(&ticket, &key);
        let announcement =
            Announcement { session: 5, epoch: EPOCH, key_id: 1, ticket: signed, table_bytes: 0, grants: Vec::new() };
        let geometry = Geometry::new(bytes as u64, SYMBOL_BYTES).expect("fits");
        let members: Vec<Member> = (0..members).map(Member::new).collect();
        let ids: Vec<ServerId> = members.iter().map(|member| member.id).collect();
        let now = Timestamp::ZERO;
        let name = SessionName { session: 5, leader: LEADER, epoch: EPOCH };
        let key = FrameKey::derive(&SEGMENT_KEY, SECRET, name);
        let distribution = Distribution::start(config, announcement, geometry, file, key, &ids, now);
        Self {
            object,
            ticket,
            distribution,
            members,
            now,
            chance: 1,
            loss,
            frames: 0,
            parity_frames: 0,
            finished: false,
            forger: None,
        }
    }

    fn is_lost(&mut self) -> bool {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % 1000 < self.loss
    }

    /// Carries everything over that is to be carried at this moment.
    fn exchange(&mut self) {
        loop {
            let mut any = self.leader_speaks();
            let mut datagrams: Vec<Vec<u8>> = Vec::new();
            while self.distribution.send_frames(self.now, Sink(&mut datagrams)) == Next::Soon {}
            for datagram in datagrams {
                any = true;
                let (header, _) = FrameHeader::decode(&datagram).expect("our own frame");
                self.frames += 1;
                let forged = self.forger.map(|secret| forged(header, secret));
                self.parity_frames += u32::from(matches!(header.carried, protocol::session::Carried::Parity { .. }));
                for number in 0..self.members.len() {
                    if let Some(forged) = &forged {
                        self.members[number].receptions.frame(&mut forged.clone(), self.now);
                    }
                    if !self.is_lost() {
                        self.members[number].receptions.frame(&mut datagram.clone(), self.now);
                    }
                }
            }
            self.members.iter_mut().for_each(|member| member.receptions.settle(self.now));
            any |= self.members_speak();
            if !any {
                return;
            }
        }
    }

    fn leader_speaks(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.distribution.poll_output() {
            any = true;
            match output {
                SenderOutput::Multicast(message) => self.multicast(&message),
                SenderOutput::MemberComplete(_) => (),
                SenderOutput::MemberFailed(server, failure) => panic!("{server}: {failure}"),
                SenderOutput::Finished(_) => self.finished = true,
            }
        }
        any
    }

    fn multicast(&mut self, message: &Message) {
        for member in &mut self.members {
            if let Message::Announce { session, layout, table_bytes, epoch, .. } = message
                && !member.receptions.knows(*session)
            {
                let announced = Announced {
                    session: *session,
                    ticket: self.ticket.clone(),
                    layout: *layout,
                    table_bytes: *table_bytes,
                    leader: LEADER,
                    epoch: *epoch,
                    secret: SECRET,
                };
                member.receptions.begin(announced, false, 1, self.now).expect("it can take part");
            } else {
                member.receptions.message(LEADER, message, self.now);
            }
        }
    }

    fn members_speak(&mut self) -> bool {
        let mut any = false;
        for member in &mut self.members {
            while let Some(event) = member.receptions.poll_event() {
                any = true;
                match event {
                    Event::Say { message: Message::Status(status), .. } => {
                        self.distribution.status(member.id, &status, self.now);
                    }
                    Event::Say { message, .. } => panic!("{message:?}"),
                    Event::Verify { session, path, growth, .. } => member.verifies = Some((session, path, growth)),
                    Event::Incomplete { .. } => panic!("{} is left out", member.id),
                }
            }
            if let Some((session, path, growth)) = &mut member.verifies
                && growth.here_bytes() == self.object.len() as u64
            {
                any = true;
                member.complete = fs::read(path).expect("it is there") == self.object;
                member.spoiled = !member.complete;
                if member.complete {
                    member.receptions.confirm(*session, self.now);
                }
                member.verifies = None;
            }
        }
        any
    }

    /// Until the session is over, or this time.
    fn run_until(&mut self, end: Timestamp) {
        self.exchange();
        while !self.finished {
            let members = self.members.iter().filter_map(|member| member.receptions.poll_timeout());
            let next = members.chain(self.distribution.poll_timeout()).min().expect("the session is not over");
            if next > end {
                return;
            }
            self.now = self.now.max(next);
            self.distribution.timeout(self.now);
            for member in &mut self.members {
                member.receptions.timeout(self.now);
            }
            self.exchange();
        }
    }
}

/// The frame with this header, of other bytes, by somebody who has the segment's key and takes this for the
/// session's secret.
fn forged(header: FrameHeader, secret: SessionSecret) -> Vec<u8> {
    let name = SessionName { session: 5, leader: LEADER, epoch: EPOCH };
    let key = FrameKey::derive(&SEGMENT_KEY, secret, name);
    let mut frame = Vec::new();
    key.seal(&header.encode(), header.sequence, &vec![0xee; usize::from(header.payload_bytes)], &mut frame);
    frame
}

const LATE: Timestamp = Timestamp(60_000_000);

#[test]
fn what_each_member_loses_is_restored_of_common_parity_to_the_last_byte() {
    for (bytes, loss) in [(1, 300), (8192, 200), (1_000_000, 50), (3_000_001, 120)] {
        let mut segment = Segment::new(bytes, 5, loss, SenderConfig::default());
        segment.run_until(LATE);
        assert!(segment.finished && segment.members.iter().all(|member| member.complete), "{bytes} bytes");
    }
    let mut segment = Segment::new(3_000_000, 5, 50, SenderConfig::default());
    segment.run_until(LATE);
    let symbols = 3_000_000_u32.div_ceil(1328);
    assert!(segment.parity_frames > symbols / 20, "{} parity frames", segment.parity_frames);
    assert!(segment.frames < symbols * 112 / 100, "{} frames for {symbols} symbols", segment.frames);
}

#[test]
fn who_has_the_segments_key_and_not_the_sessions_secret_makes_no_frame_that_is_taken() {
    let mut segment = Segment::new(1_000_000, 3, 50, SenderConfig::default());
    segment.forger = Some(SessionSecret([6; 16]));
    segment.run_until(LATE);
    assert!(segment.finished && segment.members.iter().all(|member| member.complete), "every byte is right");
    let symbols = 1_000_000_u32.div_ceil(1328);
    assert!(segment.frames < symbols * 125 / 100, "{} frames for {symbols} symbols", segment.frames);
}

#[test]
fn who_has_the_secret_can_spoil_a_session_and_the_digest_tells() {
    let mut segment = Segment::new(100_000, 1, 0, SenderConfig::default());
    segment.forger = Some(SECRET);
    segment.run_until(Timestamp(1_000_000));
    assert!(segment.members.iter().all(|member| member.spoiled && !member.complete));
}

#[test]
fn without_parity_the_same_drivers_mend_by_name() {
    let config = SenderConfig { fec: false, ..SenderConfig::default() };
    let mut segment = Segment::new(1_000_000, 3, 50, config);
    segment.run_until(LATE);
    assert!(segment.finished && segment.members.iter().all(|member| member.complete));
    assert_eq!(segment.parity_frames, 0);
}

#[test]
fn a_member_that_is_killed_at_half_goes_on_where_it_was() {
    let mut config = SenderConfig::default();
    config.rate.rate_bytes_per_sec = 2_000_000;
    config.rate.adaptive = false;
    let bytes = 8_000_000;
    let mut segment = Segment::new(bytes, 2, 0, config);
    segment.run_until(Timestamp(2_000_000));
    let before = segment.frames;
    // What it heard since its last note is lost to it, a second at most.
    let id = segment.members[1].id;
    let receptions = open(segment.members[1].directory.path(), id);
    segment.members[1].receptions = receptions;
    segment.distribution.gone(id, segment.now);
    while segment.distribution.poll_output().is_some() {}
    segment.distribution.join(id, None, segment.now);
    segment.run_until(LATE);
    assert!(segment.finished && segment.members.iter().all(|member| member.complete));
    let symbols = (bytes as u32).div_ceil(1328);
    let a_second = 2_000_000 / 1396;
    let most = symbols + a_second + a_second / 50;
    assert!(before > symbols / 3 && segment.frames <= most, "{} frames for {symbols} symbols", segment.frames);
    let left: BTreeSet<String> = fs::read_dir(segment.members[1].directory.path())
        .expect("it is there")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left, BTreeSet::from([format!("{OBJECT}.part")]), "the note is gone, and parity left no file");
}
