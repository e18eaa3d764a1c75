//! Assignments as the engine makes them: header, signature, ticket, object file, record.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::assignment::{Draft, Extra, Kind, LivePolicy};
use common::control::INLINE_BYTES_MAX;
use common::digest::{Digest, Version};
use common::ids::{AssignmentNumber, ClusterId, GroupName, RunNumber, SegmentName, Sequence, ServerId, SiteName};
use common::keys::Signed;
use common::ticket::Ticket;
use planner::policy::WanPolicy;
use transfer::chunk::chunk_bytes_for;

use super::delivery::Delivery;
use super::{Engine, EngineError, now};
use crate::ingest::build::{BuildRequest, build};
use crate::ingest::inventory::build_inventory;
use crate::ingest::level::Level;
use crate::ingest::order::build_order;
use crate::ingest::tree::Tree;
use crate::store::AssignmentRecord;

/// How long a prepare assignment is accepted by servers. A day: longer than any transfer.
pub(super) const PREPARE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What all assignments of a run have in common.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) cluster: ClusterId,
    pub(super) site: SiteName,
    pub(super) group: GroupName,
    pub(super) run: RunNumber,
    pub(super) live: LivePolicy,
    pub(super) result: Version,
    pub(super) wan: WanPolicy,
    pub(super) extra: Extra,
    pub(super) linger_seconds: u32,
}

/// What an assignment carries.
pub(super) enum Body<'a> {
    /// Commands and data.
    Tree {
        /// The version they start from; `None` for any.
        base: Option<&'a dyn Tree>,
        /// The version they lead to.
        result: &'a dyn Tree,
        /// Only these contents are carried.
        needed: Option<BTreeSet<Digest>>,
        /// Each server brings it live by itself, without a commit.
        alone: bool,
    },
    /// The whole tree's commands without any data: what is missing?
    Inventory(&'a dyn Tree),
    /// Nothing but its header.
    Order(Kind),
}

impl Body<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Tree { .. } => "prepare",
            Self::Order(Kind::Discard) => "discard",
            Self::Inventory(_) => "inventory",
            Self::Order(Kind::Commit { .. }) => "commit",
            Self::Order(Kind::Undo { .. }) => "undo",
            Self::Order(Kind::Audit { .. }) => "audit",
            Self::Order(Kind::Rollback | Kind::Prepare | Kind::Inventory | Kind::Alone) => "rollback",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Tree { alone: true, .. } => Kind::Alone,
            Self::Tree { alone: false, .. } => Kind::Prepare,
            Self::Inventory(_) => Kind::Inventory,
            Self::Order(kind) => *kind,
        }
    }
}

impl Frame {
    fn draft(&self, number: AssignmentNumber, kind: Kind, targets: &[ServerId], life: Duration) -> Draft {
        let now = now();
        Draft {
            cluster: self.cluster,
            site: self.site.clone(),
            group: self.group.clone(),
            number,
            run: self.run,
            kind,
            // Numbers only grow, so they are the site's order, too.
            sequence: Sequence(number.0),
            targets: targets.to_vec(),
            live: self.live.clone(),
            created: now,
            expires: now.after(life),
            extra: self.extra,
            linger_seconds: self.linger_seconds,
        }
    }
}

/// An assignment that is sealed and recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) number: AssignmentNumber,
    pub(super) length: u64,
}

impl Engine {
    /// Builds, signs and records an assignment for these servers. Blocks: call it where that is
    /// allowed.
    pub(super) fn seal(
        &self,
        frame: &Frame,
        body: &Body<'_>,
        targets: &[ServerId],
        life: Option<Duration>,
        cancel: &AtomicBool,
    ) -> Result<Sealed, EngineError> {
        let number = self.store.new_assignment_number()?;
        let life = life.unwrap_or(PREPARE_LIFE);
        let draft = frame.draft(number, body.kind(), targets, life);
        let expires = draft.expires;
        let key = self.trust.publish_key();
        let path: PathBuf = self.spool.join(format!("{}.assignment", number.0));
        let (object, length, inline) = match body {
            Body::Tree { base, result, needed, alone: _ } => {
                let request = BuildRequest {
                    draft,
                    base: *base,
                    result: *result,
                    needed: needed.as_ref(),
                    level: Level::Balanced,
                };
                let built = build(&request, &self.content, key, &path, &|_| (), cancel)?;
                self.keep(&path, built.object, built.length)?
            }
            Body::Inventory(result) => {
                let built = build_inventory(draft, *result, key, &path)?;
                self.keep(&path, built.object, built.length)?
            }
            Body::Order(_) => {
                let bytes = build_order(draft, frame.result, key);
                (Digest::of(&bytes), bytes.len() as u64, Some(bytes))
            }
        };
        let channel = self.channel(frame)?;
        let ticket = Ticket {
            cluster: frame.cluster,
            site: frame.site.clone(),
            assignment: number,
            run: frame.run,
            object,
            length,
            chunk_bytes: chunk_bytes_for(length),
            targets: targets.to_vec(),
            expires,
            channel: Some(channel),
        };
        let ticket = Signed::sign(&ticket, key);
        self.store.save_assignment(&AssignmentRecord {
            number,
            run: frame.run,
            kind: body.name().to_owned(),
            object: Some(object),
            length,
            ticket: Some(postcard::to_stdvec(&ticket).expect("a ticket is plain data")),
            targets: targets.to_vec(),
            expires,
            inline,
        })?;
        Ok(Sealed { number, length })
    }

    /// Moves a built file into the object store, or into memory when it rides in its notification.
    fn keep(
        &self,
        path: &std::path::Path,
        object: Digest,
        length: u64,
    ) -> Result<(Digest, u64, Option<Vec<u8>>), EngineError> {
        if length <= INLINE_BYTES_MAX as u64 {
            let bytes = std::fs::read(path).map_err(|source| EngineError::Spool { path: path.to_owned(), source })?;
            std::fs::remove_file(path).map_err(|source| EngineError::Spool { path: path.to_owned(), source })?;
            return Ok((object, length, Some(bytes)));
        }
        self.objects.put_file(path, object)?;
        Ok((object, length, None))
    }

    /// The data channel of the run's group; the first assignment gives it one.
    fn channel(&self, frame: &Frame) -> Result<SocketAddr, EngineError> {
        let candidates = self.channels.candidates(frame.cluster, &frame.site, &frame.group);
        self.store.claim_channel(&frame.site, &frame.group, candidates)?.ok_or(EngineError::NoChannel)
    }

    /// Sends a recorded assignment out, unless it is under way already.
    pub(super) fn send_out(&self, number: AssignmentNumber, wan: WanPolicy) -> Result<(), EngineError> {
        self.send_out_unless(number, wan, false)
    }

    /// As [`Self::send_out`]; nobody is told anything as long as it rests.
    pub(super) fn send_out_unless(
        &self,
        number: AssignmentNumber,
        wan: WanPolicy,
        rests: bool,
    ) -> Result<(), EngineError> {
        let record = self.store.assignment(number)?.ok_or(EngineError::NoAssignment { number })?;
        let ticket = record.ticket.as_deref().ok_or(EngineError::NoAssignment { number })?;
        let ticket: Signed<Ticket> = postcard::from_bytes(ticket).map_err(|_| EngineError::NoAssignment { number })?;
        let object = record.object.ok_or(EngineError::NoAssignment { number })?;
        let mut targets: BTreeMap<SegmentName, BTreeSet<ServerId>> = BTreeMap::new();
        for target in &record.targets {
            if let Some(server) = self.store.server(target)? {
                targets.entry(server.segment).or_default().insert(*target);
            }
        }
        let mut delivery = Delivery::new(ticket, object, record.inline, targets, wan, self.transfer_address);
        if rests {
            delivery.rest();
        }
        self.hub.deliver(number, delivery);
        Ok(())
    }
}
