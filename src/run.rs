//! Runs a job: wires scans, plan, executor and guard together.
//!
//! One loop: decided steps wait in queues, units of work are under way, whatever ends first is dealt
//! with. Deletes wait on disk until all else is done.

mod keeper;
mod memory;
mod queue;

use crate::catalog::{Catalog, Change};
use crate::entry::{Entry, Scanned};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Control, Deed, Event, Outcome, Summary};
use crate::execute::{Answer, BATCH_FILES, Context, Ended, SMALL_BYTES, resolve};
use crate::fingerprint::MULTIPART_THRESHOLD;
use crate::hash::FileHash;
use crate::job::{Effect, Job};
use crate::key::Key;
use crate::plan::compare::{CompareBy, Verdict};
use crate::plan::guard::{Decision, Evidence, guard};
use crate::plan::{Action, Found, Pair, Plan, Rules, Side, Step, Why, next_side};
use crate::route::{Moved, Route, Transfer};
use crate::scan::{Order, Scan, Seen, Spool};
use crate::stop::Stop;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use keeper::{KEPT_ERRORS, Keeper};
use memory::Memory;
use queue::{Group, Queue};
use std::collections::HashSet;
use std::sync::Arc;

/// Runs `job` to its end, or until it is stopped.
///
/// Failures of single entries are counted and told to the observer; the run goes on.
///
/// # Errors
/// What kept the run from starting (`Setup`, `Usage`, `Locked`), or ended it before it was whole, such
/// as a failed listing. Nothing has been deleted then.
pub async fn run(job: &Job, control: &Control<'_>) -> Result<Summary> {
    let Control { observer, stop } = control;
    let route = Route::open(job)?;
    let keeper = Keeper::open(job, *observer)?;
    let mut context = Context::new(*observer, job.memory_bytes);
    context.twins = keeper.catalog.clone().filter(|_| job.compare != CompareBy::Anew);
    let mut errors = Vec::new();
    let outcome = run_to_end(job, &route, &context, &keeper, stop, &mut errors).await;
    keeper.close(&outcome, errors);
    outcome
}

async fn run_to_end(
    job: &Job,
    route: &Route<'_>,
    context: &Context<'_>,
    keeper: &Keeper<'_>,
    stop: &Stop,
    errors: &mut Vec<String>,
) -> Result<Summary> {
    let catalog = keeper.catalog.as_ref();
    let sorts = catalog.is_some_and(|catalog| catalog.is_unordered().unwrap_or(false));
    let order = if sorts { Order::Sort } else { Order::Check };
    let mut run = Run::new(job, route, context, (order, catalog))?;
    let driven = run.drive(stop).await;
    errors.append(&mut run.errors);
    match driven {
        Err(error) if error.kind() == ErrorKind::Unordered && order == Order::Check => {
            context.observer.event(&Event::Restarted);
            if let Some(catalog) = catalog {
                // To find it out again next time costs only time.
                let _ = catalog.set_unordered();
            }
            // Copying everything begins anew; a comparison finds what is done already.
            let done = match job.compare {
                CompareBy::Nothing => Summary::default(),
                CompareBy::Content | CompareBy::Anew | CompareBy::Bytes | CompareBy::Size => {
                    std::mem::take(&mut run.summary)
                }
            };
            let Summary { transferred, bytes, copied, .. } = done;
            // Its scans end, and its temporary files are free for the next.
            drop(run);
            let mut sorted = Run::new(job, route, context, (Order::Sort, catalog))?;
            sorted.summary = Summary { transferred, bytes, copied, ..Summary::default() };
            let driven = sorted.drive(stop).await;
            errors.append(&mut sorted.errors);
            driven.map(|()| sorted.summary)
        }
        outcome => outcome.map(|()| run.summary),
    }
}

/// Large files under way at once: their parts fill the requests in flight.
const LARGE_FILES: usize = 4;
/// Planning pauses while this many steps wait.
const STEPS_AHEAD: usize = 4096;
/// So many failures of the network in a row, at least, and the server counts as gone.
const LOST: usize = 32;
/// Items merged before other work gets its turn.
const MERGE_ITEMS: usize = 512;

/// A unit of work that has come to its end, and the room that it took.
struct Unit {
    files: usize,
    large: usize,
    done: Done,
}

enum Done {
    Moved(Moved),
    Landed(Vec<Ended>),
    Resolved(Vec<Answer>),
    Written(Option<Error>),
    Read(Key, Result<Vec<String>>),
}

type Running<'a> = FuturesUnordered<BoxFuture<'a, Unit>>;

enum End {
    Whole,
    Stopped,
    /// The server does not answer any more.
    GaveUp,
}

struct Run<'a> {
    job: &'a Job,
    route: &'a Route<'a>,
    context: &'a Context<'a>,
    source: Scan,
    target: Scan,
    seen: Seen,
    plan: Plan,
    planned: bool,
    complete: bool,
    queue: Queue,
    deletes: Spool,
    prunes: Spool,
    evidence: Evidence,
    /// Names under way that the target does not have: one that can't be read may be a renamed one.
    unseen: HashSet<Key>,
    group: Group,
    memory: Memory,
    /// The catalog is being written.
    writing: bool,
    /// The first errors of single entries.
    errors: Vec<String>,
    /// Failures of the network since the last success.
    lost: usize,
    summary: Summary,
}

impl<'a> Run<'a> {
    fn new(
        job: &'a Job,
        route: &'a Route<'a>,
        context: &'a Context<'a>,
        (order, catalog): (Order, Option<&Arc<Catalog>>),
    ) -> Result<Self> {
        let seen = Seen::default();
        let (source, target) = route.scan(&seen, order);
        let rules = Rules {
            delete: job.delete,
            compare: job.compare,
            names: route.names(),
            server_side: route.is_server_side(),
            update_metadata: job.update_metadata,
        };
        Ok(Self {
            job,
            route,
            context,
            source,
            target,
            seen,
            plan: Plan::new(rules),
            planned: false,
            complete: false,
            queue: Queue::default(),
            deletes: Spool::new()?,
            prunes: Spool::new()?,
            evidence: Evidence { source_entries: 0, target_entries: 0, deletes: 0, failed: 0 },
            unseen: HashSet::new(),
            group: Group::new(),
            memory: Memory::new(catalog.map(Arc::clone)),
            writing: false,
            errors: Vec::new(),
            lost: 0,
            summary: Summary::default(),
        })
    }

    fn tell(&self, event: &Event<'_>) {
        self.context.observer.event(event);
    }

    async fn drive(&mut self, stop: &Stop) -> Result<()> {
        let driven = self.drive_to_end(stop).await;
        // A killed run keeps what was written; this one all that it knows.
        let trouble = self.memory.write().await;
        self.memory.troubles.extend(trouble);
        self.tell_troubles();
        driven
    }

    async fn drive_to_end(&mut self, stop: &Stop) -> Result<()> {
        let mut running = Running::new();
        let ended = self.transfer_all(stop, &mut running).await;
        // Futures that are dropped leave no temporary file, and no upload behind.
        drop(running);
        self.context.abort_uploads().await;
        if let Ok(End::Whole) = ended {
            return self.finish(stop).await;
        }
        // What is fetched and verified lands, however the run ends.
        let group = self.group.take();
        let landed = self.route.land(group).await;
        self.account(landed);
        match ended {
            Ok(End::Stopped) => self.summary.interrupted = true,
            Ok(End::GaveUp) => {
                let cause = format!("gave up: the server failed {} times in a row", self.lost);
                self.summary.gave_up = Some(cause);
            }
            Ok(End::Whole) | Err(_) => {}
        }
        self.route.sync()?;
        ended.map(drop)
    }

    fn tell_troubles(&mut self) {
        for trouble in std::mem::take(&mut self.memory.troubles) {
            self.tell(&Event::Notice(&trouble.to_string()));
        }
    }

    async fn transfer_all(&mut self, stop: &Stop, running: &mut Running<'a>) -> Result<End> {
        let mut stopped = std::pin::pin!(stop.requested());
        loop {
            self.dispatch(running);
            if running.is_empty() && self.planned && self.queue.waiting() == 0 {
                return Ok(End::Whole);
            }
            if self.lost >= LOST.max(2 * self.job.transfers) {
                return Ok(End::GaveUp);
            }
            let may_plan = !self.planned && self.queue.waiting() < STEPS_AHEAD;
            let lands = (!self.group.landings.is_empty()).then(|| self.group.due());
            let writes = (self.memory.is_waiting() && !self.writing).then(|| self.memory.due());
            let due = [lands, writes].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(End::Stopped),
                Some(unit) = running.next(), if !running.is_empty() => self.settle(unit),
                merged = self.merge(), if may_plan => merged?,
                () = sleep_until(due), if due.is_some() => {}
            }
        }
    }

    /// Merges what the scans have ready into steps. It may be dropped wherever it waits: what was
    /// popped has been taken in by then.
    async fn merge(&mut self) -> Result<()> {
        let mut steps = Vec::new();
        for _ in 0..MERGE_ITEMS {
            let filled = match self.source.fill().await {
                Ok(_) => self.target.fill().await,
                failed => failed,
            };
            filled.map_err(|error| self.not_started(error))?;
            let filter = &self.job.filter;
            let Some(side) = next_side(self.source.head(), self.target.head()) else {
                self.memory.seek(None, filter).await;
                self.planned = true;
                break;
            };
            let head = if side == Side::Target { self.target.head() } else { self.source.head() };
            let mut record = None;
            if let Some(key) = head.and_then(Scanned::position) {
                self.memory.seek(Some(key), filter).await;
                record = self.memory.take(key);
            }
            let source = (side != Side::Target).then(|| self.source.pop()).flatten();
            let target = (side != Side::Source).then(|| self.target.pop()).flatten();
            self.evidence.source_entries += u64::from(is_evidence(source.as_ref()));
            self.evidence.target_entries += u64::from(is_evidence(target.as_ref()));
            let found = Found { source, target, record };
            self.plan.step(found, self.source.head(), &mut steps);
            steps.drain(..).try_for_each(|step| self.take(step))?;
        }
        Ok(())
    }

    /// A scan that fails before it gave anything means that the run could not start.
    fn not_started(&self, error: Error) -> Error {
        let nothing_seen = self.evidence.source_entries + self.evidence.target_entries == 0;
        match error.kind() {
            ErrorKind::Unordered | ErrorKind::Usage | ErrorKind::Refused => error,
            _ if nothing_seen => error.into_setup(),
            _ => error,
        }
    }

    fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Act(action) => {
                if self.job.compare == CompareBy::Bytes {
                    self.read_alone(&action);
                }
                self.act(action, None)
            }
            Step::Compare(pair) => {
                self.queue.pairs.push_back(pair);
                Ok(())
            }
            Step::Prune(directory) => self.prunes.put(&directory),
            Step::Unread(gap) => {
                self.summary.unreadable += 1;
                self.tell(&Event::Unread(&gap));
                Ok(())
            }
        }
    }

    /// Has read what is not compared with anything.
    fn read_alone(&mut self, action: &Action) {
        let (source, target) = match action {
            Action::Transfer { source, replaces, .. } | Action::Copy { source, replaces, .. } => {
                (Some(source), replaces.as_ref())
            }
            Action::Delete { target } | Action::Spare { target, .. } => (None, Some(target)),
            Action::Keep { .. } | Action::Update { .. } | Action::Refuse { .. } => (None, None),
        };
        let sides = [(Side::Source, source), (Side::Target, target)];
        let has_content = |(side, entry): (Side, Option<&Entry>)| {
            Some((side, entry.filter(|entry| !entry.is_directory())?.clone()))
        };
        self.queue.alone.extend(sides.into_iter().filter_map(has_content));
    }

    /// `hash` is what the source's file hashes to, where the comparison had to read it.
    fn act(&mut self, action: Action, hash: Option<FileHash>) -> Result<()> {
        self.tell(&Event::Planned(&action));
        match action {
            Action::Transfer { source, replaces, why } | Action::Copy { source, replaces, why } => {
                self.summary.to_transfer += 1;
                self.summary.to_transfer_bytes += source.size;
                self.summary.unknown += u64::from(why == Why::Unknown);
                if self.job.delete && self.job.effect == Effect::Apply && replaces.is_none() {
                    self.unseen.insert(source.key.clone());
                }
                self.enqueue(Transfer { entry: source, hash });
            }
            Action::Update { source, target, record } => {
                self.summary.to_update += 1;
                if self.job.effect == Effect::Apply {
                    let record = Some(record);
                    self.queue.updates.push_back(Pair { source, target, record });
                }
            }
            Action::Delete { target } => {
                self.evidence.deletes += 1;
                self.deletes.put(&target)?;
            }
            Action::Keep { key, .. } => self.summary.kept += u64::from(!key.is_directory()),
            Action::Spare { .. } => self.summary.spared += 1,
            Action::Refuse { .. } => self.summary.refused += 1,
        }
        Ok(())
    }

    fn enqueue(&mut self, transfer: Transfer) {
        if self.job.effect != Effect::Apply {
            return;
        }
        if transfer.entry.size > MULTIPART_THRESHOLD {
            self.queue.large.push_back(transfer);
        } else {
            self.queue.small.push_back(transfer);
        }
    }

    /// Puts as many units of work under way as there is room for.
    fn dispatch(&mut self, running: &mut Running<'a>) {
        while self.queue.large_under_way < LARGE_FILES
            && let Some(transfer) = self.queue.large.pop_front()
        {
            self.start(running, vec![transfer], 1);
        }
        let together = match self.route.deed() {
            Deed::Upload => BATCH_FILES,
            Deed::Download | Deed::Copy | Deed::Update | Deed::Delete => 1,
        };
        while self.queue.files_under_way < 2 * self.job.transfers.max(1) {
            let batch = self.queue.next_small(together);
            if batch.is_empty() {
                break;
            }
            self.start(running, batch, 0);
        }
        while self.queue.files_under_way < 2 * self.job.transfers.max(1)
            && let Some(pair) = self.queue.updates.pop_front()
        {
            self.update(running, pair);
        }
        while self.queue.pairs_under_way < self.job.transfers.max(1) && !self.queue.pairs.is_empty()
        {
            self.compare(running);
        }
        while self.queue.files_under_way < self.job.transfers.max(1)
            && let Some((side, entry)) = self.queue.alone.pop_front()
        {
            let (route, context) = (self.route, self.context);
            self.queue.files_under_way += 1;
            running.push(Box::pin(async move {
                let disagreements = route.inspect(context, side, &entry).await;
                Unit { files: 1, large: 0, done: Done::Read(entry.key, disagreements) }
            }));
        }
        let idle_memory = running.is_empty() && self.planned && self.memory.is_waiting();
        if !self.writing && (self.memory.is_due() || idle_memory) {
            self.writing = true;
            let writing = self.memory.write();
            running.push(Box::pin(async move {
                Unit { files: 0, large: 0, done: Done::Written(writing.await) }
            }));
        }
        let idle = running.is_empty() && !self.group.landings.is_empty();
        if idle || self.group.is_due() {
            let (route, group) = (self.route, self.group.take());
            running.push(Box::pin(async move {
                Unit { files: 0, large: 0, done: Done::Landed(route.land(group).await) }
            }));
        }
        self.announce_completeness();
    }

    fn start(&mut self, running: &mut Running<'a>, transfers: Vec<Transfer>, large: usize) {
        let (route, context) = (self.route, self.context);
        let files = if large > 0 { 0 } else { transfers.len() };
        self.queue.files_under_way += files;
        self.queue.large_under_way += large;
        running.push(Box::pin(async move {
            Unit { files, large, done: Done::Moved(route.transfer(context, transfers).await) }
        }));
    }

    fn update(&mut self, running: &mut Running<'a>, pair: Pair) {
        let (route, context) = (self.route, self.context);
        let Pair { source, target, record: Some(record) } = pair else { return };
        self.queue.files_under_way += 1;
        running.push(Box::pin(async move {
            let ended = route.update(context, source, &target, *record).await;
            Unit { files: 1, large: 0, done: Done::Moved(Moved::Ended(ended)) }
        }));
    }

    /// Puts a comparison by content under way: several small ones, or one large one.
    fn compare(&mut self, running: &mut Running<'a>) {
        let small = |pair: &&Pair| pair.source.size <= SMALL_BYTES;
        let count = self.queue.pairs.iter().take(BATCH_FILES).take_while(small).count().max(1);
        let (route, context) = (self.route, self.context);
        let questions = self.queue.pairs.drain(..count).map(|pair| route.question(pair)).collect();
        self.queue.pairs_under_way += count;
        running.push(Box::pin(async move {
            let done = Done::Resolved(resolve(context, questions).await);
            Unit { files: 0, large: 0, done }
        }));
    }

    /// Says once that the totals are known.
    fn announce_completeness(&mut self) {
        let undecided = self.queue.pairs.len() + self.queue.pairs_under_way;
        if self.planned && undecided == 0 && !self.complete {
            self.complete = true;
            self.tell(&Event::PlanComplete);
        }
    }

    fn settle(&mut self, unit: Unit) {
        self.queue.files_under_way -= unit.files;
        self.queue.large_under_way -= unit.large;
        match unit.done {
            Done::Landed(ended) | Done::Moved(Moved::Ended(ended)) => self.account(ended),
            Done::Moved(Moved::Fetched(landing)) => self.group.add(*landing),
            Done::Read(key, Ok(disagreements)) => self.disagree(&key, &disagreements),
            Done::Read(key, Err(error)) => self.fail(key, error),
            Done::Written(trouble) => {
                self.writing = false;
                self.memory.troubles.extend(trouble);
            }
            Done::Resolved(answers) => {
                self.queue.pairs_under_way -= answers.len();
                for answer in answers {
                    self.resolved(answer);
                }
            }
        }
        self.tell_troubles();
    }

    fn resolved(&mut self, answer: Answer) {
        let Answer { pair, verdict, hash, disagreements } = answer;
        self.disagree(&pair.source.key, &disagreements);
        let verdict = match verdict {
            // A target that can't be read is replaced; a source that can't be is a failure.
            Err(error) if self.route.deed() == Deed::Download && is_unread(error.kind()) => {
                Verdict::Different(Why::Unknown)
            }
            Err(error) => return self.fail(pair.source.key, error),
            Ok(verdict) => verdict,
        };
        let learns = self.job.compare != CompareBy::Bytes;
        let action = match verdict {
            Verdict::Same(by) => {
                if let Some(record) = pair.record.as_ref().filter(|_| learns) {
                    self.memory.note(Change::Put(record.clone(), None));
                }
                self.plan.keep(pair, by)
            }
            Verdict::Different(why) => self.plan.transfer(pair.source, Some(pair.target), why),
            Verdict::NeedsHash => self.plan.transfer(pair.source, Some(pair.target), Why::Unknown),
        };
        // Neither a transfer nor a keep touches the spool, which alone can fail.
        let _ = self.act(action, hash);
    }

    fn disagree(&mut self, key: &Key, disagreements: &[String]) {
        for what in disagreements {
            self.summary.disagreements += 1;
            self.tell(&Event::Disagreement { key, what });
        }
    }

    fn fail(&mut self, key: Key, error: Error) {
        let deed = self.route.deed();
        let outcome = Outcome { key, deed, result: Err(error), unverified: false };
        self.account(vec![Ended::from(outcome)]);
    }

    fn account(&mut self, ended: Vec<Ended>) {
        for Ended { outcome, change } in ended {
            let was_unseen = self.unseen.remove(&outcome.key);
            let unread = outcome.result.as_ref().is_err_and(|error| is_unread(error.kind()));
            self.evidence.failed += u64::from(was_unseen && unread);
            match &outcome.result {
                Ok(_) => {
                    self.lost = 0;
                    if let Some(change) = change {
                        self.memory.note(change);
                    }
                }
                Err(error) => {
                    let is_lost = matches!(error.kind(), ErrorKind::Network | ErrorKind::Hung);
                    self.lost = if is_lost { self.lost + 1 } else { 0 };
                    if self.errors.len() < KEPT_ERRORS {
                        self.errors.push(error.to_string());
                    }
                }
            }
            self.summary.count(&outcome);
            self.tell(&Event::Finished(&outcome));
        }
    }

    /// All is transferred: the deletes, if the guard agrees, and the last names made durable.
    async fn finish(&mut self, stop: &Stop) -> Result<()> {
        if self.seen.all_excluded() {
            let cause = "the patterns exclude every entry of the source";
            return Err(Error::new(ErrorKind::Usage, "nothing to do", cause));
        }
        if self.evidence.source_entries == 0 {
            let place = self.job.source.name("");
            self.tell(&Event::Notice(&format!("the source is empty: nothing is in {place}")));
        }
        self.evidence.failed += self.summary.failed;
        match guard(self.evidence, self.job.allowed) {
            Err(error) => self.summary.guard = Some(error.to_string()),
            Ok(Decision::Skip) => self.summary.undeleted = self.evidence.deletes,
            Ok(Decision::Delete) if self.job.effect != Effect::Apply => {
                self.summary.to_delete = self.evidence.deletes;
            }
            Ok(Decision::Delete) => self.delete_all(stop).await?,
        }
        if self.summary.interrupted {
            return Ok(());
        }
        self.route.sync()
    }

    /// Deletes what is to go, then the directories that are empty now.
    async fn delete_all(&mut self, stop: &Stop) -> Result<()> {
        let mut last: Option<Key> = None;
        loop {
            let batch = match self.route.deletes_backwards() {
                true => self.deletes.batch_before(last.as_ref())?,
                false => self.deletes.batch_after(last.as_ref())?,
            };
            let Some(end) = batch.last() else {
                return self.prune_all().await;
            };
            if stop.is_requested() {
                self.summary.interrupted = true;
                return Ok(());
            }
            last = Some(end.key.clone());
            let outcomes = self.route.delete(batch).await;
            self.account(outcomes.into_iter().map(forgotten).collect());
        }
    }

    /// Nobody planned these by name: only what fails is told.
    async fn prune_all(&mut self) -> Result<()> {
        let mut last: Option<Key> = None;
        loop {
            let batch = self.prunes.batch_before(last.as_ref())?;
            let Some(end) = batch.last() else {
                return Ok(());
            };
            last = Some(end.key.clone());
            let failed = |outcome: &Outcome| outcome.result.is_err();
            let outcomes = self.route.delete(batch).await;
            self.account(outcomes.into_iter().filter(failed).map(Ended::from).collect());
        }
    }
}

/// What is deleted needs no memory.
fn forgotten(outcome: Outcome) -> Ended {
    let change = Some(Change::Forget(outcome.key.clone()));
    Ended { outcome, change }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

fn is_unread(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unreadable | ErrorKind::Changed)
}

/// Directories prove nothing: an unmounted tree has some, too.
fn is_evidence(item: Option<&Scanned>) -> bool {
    match item {
        None => false,
        Some(Scanned::Entry(entry)) => !entry.is_directory(),
        Some(Scanned::Gap(_) | Scanned::Unnamed { .. }) => true,
    }
}
