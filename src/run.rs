//! Runs a job: wires scans, plan, executor and guard together.
//!
//! One loop: decided steps wait in queues, units of work are under way, whatever ends first is dealt
//! with. Deletes wait on disk until all else is done.

mod queue;

use crate::entry::{Entry, Scanned};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Control, Deed, Event, Outcome, Summary};
use crate::execute::{BATCH_FILES, Context, SMALL_BYTES, resolve};
use crate::fingerprint::MULTIPART_THRESHOLD;
use crate::job::{Effect, Job};
use crate::key::Key;
use crate::plan::compare::{CompareBy, Verdict};
use crate::plan::guard::{Decision, Evidence, guard};
use crate::plan::{Action, Pair, Plan, Rules, Side, Step, Why, next_side};
use crate::route::{Moved, Route};
use crate::scan::{Order, Scan, Seen, Spool};
use crate::stop::Stop;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use queue::{Group, Queue};
use std::collections::HashSet;

/// Runs `job` to its end, or until it is stopped.
///
/// Failures of single entries are counted and told to the observer; the run goes on.
///
/// # Errors
/// What kept the run from starting (`Setup`, `Usage`), or ended it before it was whole, such as a
/// failed listing. Nothing has been deleted then.
pub async fn run(job: &Job, control: &Control<'_>) -> Result<Summary> {
    let Control { observer, stop } = control;
    let context = Context::new(*observer, job.memory_bytes);
    let route = Route::open(job)?;
    let mut run = Run::new(job, &route, &context, Order::Check)?;
    match run.drive(stop).await {
        Err(error) if error.kind() == ErrorKind::Unordered => {
            observer.event(&Event::Restarted);
            // Copying everything begins anew; a comparison finds what is done already.
            let done = match job.compare {
                CompareBy::Nothing => Summary::default(),
                CompareBy::Content | CompareBy::Size => std::mem::take(&mut run.summary),
            };
            let Summary { transferred, bytes, copied, .. } = done;
            // Its scans end, and its temporary files are free for the next.
            drop(run);
            let mut sorted = Run::new(job, &route, &context, Order::Sort)?;
            sorted.summary = Summary { transferred, bytes, copied, ..Summary::default() };
            sorted.drive(stop).await.map(|()| sorted.summary)
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
    Landed(Vec<Outcome>),
    Resolved(Vec<(Pair, Result<Verdict>)>),
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
    /// Failures of the network since the last success.
    lost: usize,
    summary: Summary,
}

impl<'a> Run<'a> {
    fn new(
        job: &'a Job,
        route: &'a Route<'a>,
        context: &'a Context<'a>,
        order: Order,
    ) -> Result<Self> {
        let seen = Seen::default();
        let (source, target) = route.scan(&seen, order);
        let rules = Rules {
            delete: job.delete,
            compare: job.compare,
            names: route.names(),
            server_side: route.is_server_side(),
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
            lost: 0,
            summary: Summary::default(),
        })
    }

    fn tell(&self, event: &Event<'_>) {
        self.context.observer.event(event);
    }

    async fn drive(&mut self, stop: &Stop) -> Result<()> {
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
        let outcomes = self.route.land(group).await;
        self.account(outcomes);
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
            let (due, waits) = (self.group.due(), !self.group.landings.is_empty());
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(End::Stopped),
                Some(unit) = running.next(), if !running.is_empty() => self.settle(unit),
                merged = self.merge(), if may_plan => merged?,
                () = tokio::time::sleep_until(due), if waits => {}
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
            let Some(side) = next_side(self.source.head(), self.target.head()) else {
                self.planned = true;
                break;
            };
            let source = (side != Side::Target).then(|| self.source.pop()).flatten();
            let target = (side != Side::Source).then(|| self.target.pop()).flatten();
            self.evidence.source_entries += u64::from(is_evidence(source.as_ref()));
            self.evidence.target_entries += u64::from(is_evidence(target.as_ref()));
            self.plan.step(source, target, self.source.head(), &mut steps);
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
            Step::Act(action) => self.act(action),
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

    fn act(&mut self, action: Action) -> Result<()> {
        self.tell(&Event::Planned(&action));
        match action {
            Action::Transfer { source, replaces, why } | Action::Copy { source, replaces, why } => {
                self.summary.to_transfer += 1;
                self.summary.to_transfer_bytes += source.size;
                self.summary.unknown += u64::from(why == Why::Unknown);
                if self.job.delete && self.job.effect == Effect::Apply && replaces.is_none() {
                    self.unseen.insert(source.key.clone());
                }
                self.enqueue(source);
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

    fn enqueue(&mut self, source: Entry) {
        if self.job.effect == Effect::Plan {
            return;
        }
        if source.size > MULTIPART_THRESHOLD {
            self.queue.large.push_back(source);
        } else {
            self.queue.small.push_back(source);
        }
    }

    /// Puts as many units of work under way as there is room for.
    fn dispatch(&mut self, running: &mut Running<'a>) {
        while self.queue.large_under_way < LARGE_FILES
            && let Some(entry) = self.queue.large.pop_front()
        {
            self.start(running, vec![entry], 1);
        }
        let together = match self.route.deed() {
            Deed::Upload => BATCH_FILES,
            Deed::Download | Deed::Copy | Deed::Delete => 1,
        };
        while self.queue.files_under_way < 2 * self.job.transfers.max(1) {
            let batch = self.queue.next_small(together);
            if batch.is_empty() {
                break;
            }
            self.start(running, batch, 0);
        }
        while self.queue.pairs_under_way < self.job.transfers.max(1) && !self.queue.pairs.is_empty()
        {
            self.compare(running);
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

    fn start(&mut self, running: &mut Running<'a>, entries: Vec<Entry>, large: usize) {
        let (route, context) = (self.route, self.context);
        let files = if large > 0 { 0 } else { entries.len() };
        self.queue.files_under_way += files;
        self.queue.large_under_way += large;
        running.push(Box::pin(async move {
            Unit { files, large, done: Done::Moved(route.transfer(context, entries).await) }
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
            Done::Landed(outcomes) | Done::Moved(Moved::Ended(outcomes)) => self.account(outcomes),
            Done::Moved(Moved::Fetched(landing)) => self.group.add(*landing),
            Done::Resolved(answers) => {
                self.queue.pairs_under_way -= answers.len();
                for (pair, answer) in answers {
                    self.resolved(pair, answer);
                }
            }
        }
    }

    fn resolved(&mut self, pair: Pair, answer: Result<Verdict>) {
        let Pair { source, target } = pair;
        let action = match answer {
            Ok(Verdict::Same(by)) => Action::Keep { key: source.key, by },
            Ok(Verdict::Different(why)) => self.plan.transfer(source, Some(target), why),
            Ok(Verdict::NeedsHash) => self.plan.transfer(source, Some(target), Why::Unknown),
            // A target that can't be read is replaced; a source that can't be is a failure.
            Err(error) if self.route.deed() == Deed::Download && is_unread(error.kind()) => {
                self.plan.transfer(source, Some(target), Why::Unknown)
            }
            Err(error) => {
                let (key, deed) = (source.key, self.route.deed());
                let outcome = Outcome { key, deed, result: Err(error), unverified: false };
                return self.account(vec![outcome]);
            }
        };
        // Neither a transfer nor a keep touches the spool, which alone can fail.
        let _ = self.act(action);
    }

    fn account(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            let was_unseen = self.unseen.remove(&outcome.key);
            let unread = outcome.result.as_ref().is_err_and(|error| is_unread(error.kind()));
            self.evidence.failed += u64::from(was_unseen && unread);
            match &outcome.result {
                Err(error) if matches!(error.kind(), ErrorKind::Network | ErrorKind::Hung) => {
                    self.lost += 1;
                }
                Ok(_) | Err(_) => self.lost = 0,
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
            Ok(Decision::Delete) if self.job.effect == Effect::Plan => {
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
            self.account(outcomes);
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
            self.account(outcomes.into_iter().filter(failed).collect());
        }
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
