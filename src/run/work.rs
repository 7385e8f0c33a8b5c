//! The work of a run: what waits, what is under way, and the room that it takes.

use super::memory::Memory;
use super::queue::{Group, Queue};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::event::Deed;
use crate::execute::{Answer, BATCH_FILES, Context, Landing, SMALL_BYTES, resolve};
use crate::fingerprint::MULTIPART_THRESHOLD;
use crate::job::{Effect, Job};
use crate::key::Key;
use crate::plan::{Pair, Side};
use crate::route::{Moved, Route, Transfer};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

/// Large files under way at once: their parts fill the requests in flight.
const LARGE_FILES: usize = 4;

/// What a unit of work has come to.
pub(super) enum Done {
    /// Transfers have ended, or wait for others to land with.
    Moved(Moved),
    /// Pairs were compared.
    Resolved(Vec<Answer>),
    /// An entry was read; what does not agree with its bytes.
    Read(Key, Result<Vec<String>>),
    /// The catalog was written, or could not be.
    Written(Option<Error>),
}

/// The room that a unit takes.
#[derive(Clone, Copy, Default)]
pub(super) struct Room {
    files: usize,
    large: usize,
    pairs: usize,
}

/// Units under way, each with the room that it takes.
pub(super) type Running<'a> = FuturesUnordered<BoxFuture<'a, (Room, Done)>>;

pub(super) struct Work<'a> {
    job: &'a Job,
    route: &'a Route<'a>,
    context: &'a Context<'a>,
    pub(super) queue: Queue,
    under_way: Room,
    group: Group,
    /// The catalog is being written.
    writing: bool,
}

impl<'a> Work<'a> {
    pub(super) fn new(job: &'a Job, route: &'a Route<'a>, context: &'a Context<'a>) -> Self {
        Self {
            job,
            route,
            context,
            queue: Queue::default(),
            under_way: Room::default(),
            group: Group::new(),
            writing: false,
        }
    }

    /// A transfer to be made, if anything is to be changed.
    pub(super) fn transfer(&mut self, transfer: Transfer) {
        if self.job.effect != Effect::Apply {
            return;
        }
        if transfer.entry.size > MULTIPART_THRESHOLD {
            self.queue.large.push_back(transfer);
        } else {
            self.queue.small.push_back(transfer);
        }
    }

    /// An object's metadata to be brought up to date, if anything is to be changed.
    pub(super) fn update(&mut self, pair: Pair) {
        if self.job.effect == Effect::Apply {
            self.queue.updates.push_back(pair);
        }
    }

    /// Pairs of which it is not known yet what becomes of them.
    pub(super) fn undecided(&self) -> usize {
        self.queue.pairs.len() + self.under_way.pairs
    }

    /// When there will be something to do, though nothing has ended by then.
    pub(super) fn due(&self, memory: &Memory) -> Option<Instant> {
        let lands = (!self.group.landings.is_empty()).then(|| self.group.due());
        let writes = (memory.is_waiting() && !self.writing).then(|| memory.due());
        [lands, writes].into_iter().flatten().min()
    }

    /// Takes back the room of a unit that has ended; answers what is to be settled.
    pub(super) fn ended(&mut self, (room, done): (Room, Done)) -> Done {
        self.under_way.files -= room.files;
        self.under_way.large -= room.large;
        self.under_way.pairs -= room.pairs;
        match done {
            Done::Moved(Moved { ended, fetched }) => {
                for landing in fetched {
                    self.group.add(landing);
                }
                Done::Moved(Moved { ended, fetched: Vec::new() })
            }
            Done::Written(trouble) => {
                self.writing = false;
                Done::Written(trouble)
            }
            Done::Resolved(_) | Done::Read(..) => done,
        }
    }

    /// What was fetched, and can land.
    pub(super) fn take_group(&mut self) -> Vec<Landing> {
        self.group.take()
    }

    /// Puts as many units of work under way as there is room for.
    pub(super) fn dispatch(
        &mut self,
        running: &mut Running<'a>,
        memory: &mut Memory,
        planned: bool,
    ) {
        self.dispatch_transfers(running);
        let transfers = self.job.transfers.max(1);
        while self.under_way.files < 2 * transfers
            && let Some(pair) = self.queue.updates.pop_front()
        {
            self.start_update(running, pair);
        }
        while self.under_way.pairs < transfers && !self.queue.pairs.is_empty() {
            self.start_comparison(running);
        }
        while self.under_way.files < transfers
            && let Some((side, entry)) = self.queue.alone.pop_front()
        {
            self.start_reading(running, side, entry);
        }
        let waits_for_memory = running.is_empty() && planned && memory.is_waiting();
        if !self.writing && (memory.is_due() || waits_for_memory) {
            self.writing = true;
            let writing = memory.write();
            self.start(running, Room::default(), async move { Done::Written(writing.await) });
        }
        if (running.is_empty() && !self.group.landings.is_empty()) || self.group.is_due() {
            let (route, group) = (self.route, self.group.take());
            self.start(running, Room::default(), async move {
                Done::Moved(Moved { ended: route.land(group).await, fetched: Vec::new() })
            });
        }
    }

    fn start(
        &mut self,
        running: &mut Running<'a>,
        room: Room,
        work: impl Future<Output = Done> + Send + 'a,
    ) {
        self.under_way.files += room.files;
        self.under_way.large += room.large;
        self.under_way.pairs += room.pairs;
        running.push(Box::pin(async move { (room, work.await) }));
    }

    fn dispatch_transfers(&mut self, running: &mut Running<'a>) {
        while self.under_way.large < LARGE_FILES
            && let Some(transfer) = self.queue.large.pop_front()
        {
            self.start_transfer(running, Room { large: 1, ..Room::default() }, vec![transfer]);
        }
        let together = match self.route.deed() {
            Deed::Upload | Deed::Download => BATCH_FILES,
            Deed::Copy | Deed::Update | Deed::Delete => 1,
        };
        while self.under_way.files < 2 * self.job.transfers.max(1) {
            let batch = self.queue.next_small(together);
            if batch.is_empty() {
                return;
            }
            self.start_transfer(running, Room { files: batch.len(), ..Room::default() }, batch);
        }
    }

    fn start_transfer(&mut self, running: &mut Running<'a>, room: Room, transfers: Vec<Transfer>) {
        let (route, context) = (self.route, self.context);
        self.start(
            running,
            room,
            async move { Done::Moved(route.transfer(context, transfers).await) },
        );
    }

    fn start_update(&mut self, running: &mut Running<'a>, pair: Pair) {
        let (route, context) = (self.route, self.context);
        let Pair { source, target, record: Some(record) } = pair else { return };
        self.start(running, Room { files: 1, ..Room::default() }, async move {
            let ended = route.update(context, source, &target, *record).await;
            Done::Moved(Moved { ended, fetched: Vec::new() })
        });
    }

    fn start_reading(&mut self, running: &mut Running<'a>, side: Side, entry: Entry) {
        let (route, context) = (self.route, self.context);
        self.start(running, Room { files: 1, ..Room::default() }, async move {
            let disagreements = route.inspect(context, side, &entry).await;
            Done::Read(entry.key, disagreements)
        });
    }

    /// Several small comparisons, or one large one.
    fn start_comparison(&mut self, running: &mut Running<'a>) {
        let small = |pair: &&Pair| pair.source.size <= SMALL_BYTES;
        let count = self.queue.pairs.iter().take(BATCH_FILES).take_while(small).count().max(1);
        let (route, context) = (self.route, self.context);
        let questions = self.queue.pairs.drain(..count).map(|pair| route.question(pair)).collect();
        self.start(running, Room { pairs: count, ..Room::default() }, async move {
            Done::Resolved(resolve(context, questions).await)
        });
    }
}
