//! Runs a job: wires scans, plan, executor and guard together.
//!
//! One loop: decided steps wait in queues, units of work are under way, whatever ends first is
//! dealt with. Deletes wait on disk until all else is done.

mod finish;
mod keeper;
mod ledger;
mod leftovers;
mod memory;
mod queue;
mod work;

use crate::catalog::{self, Catalog, Change};
use crate::entry::{Entry, EntryKind, Scanned};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Control, Deed, Event, Outcome, Summary};
use crate::execute::{Answer, Context, Ended, GRACE};
use crate::hash::FileHash;
use crate::job::{Effect, Job};
use crate::key::Key;
use crate::plan::compare::{CompareBy, Verdict};
use crate::plan::{Action, Found, Pair, Plan, Rules, Side, Step, Why, next_side};
use crate::route::{Route, Transfer};
use crate::scan::{Ends, Order, Scan, Seen, Splits, Spool};
use crate::stop::Stop;
use futures::StreamExt;
use keeper::Keeper;
use ledger::{Ledger, is_unread};
use memory::Memory;
use std::sync::Arc;
use work::{Done, Running, Work};

/// Runs `job` to its end, or until it is stopped.
///
/// Failures of single entries are counted and told to the observer; the run goes on.
///
/// # Errors
/// What kept the run from starting (`Setup`, `Usage`, `Locked`), or ended it before it was whole, such
/// as a failed listing. Nothing has been deleted then.
pub async fn run(job: &Job, control: &Control<'_>) -> Result<Summary> {
    let mut keeper = Keeper::begin(job, control.observer);
    let mut errors = Vec::new();
    let outcome = run_kept(job, control, &mut keeper, &mut errors).await;
    keeper.close(&outcome, errors).await;
    outcome
}

async fn run_kept(
    job: &Job,
    control: &Control<'_>,
    keeper: &mut Keeper<'_>,
    errors: &mut Vec<String>,
) -> Result<Summary> {
    keeper.open()?;
    let route = Route::open(job)?;
    let mut context = Context::new(control.observer, job.memory_bytes);
    context.stop = control.stop.clone();
    context.trusts_signatures = job.compare != CompareBy::Anew;
    context.twins = keeper.catalog.clone().filter(|_| context.trusts_signatures);
    context.unfinished.clone_from(&keeper.unfinished);
    context.senders = keeper.senders();
    run_to_end(job, &route, &context, keeper, &control.stop, errors).await
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
    errors.append(&mut run.ledger.errors);
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
                    std::mem::take(&mut run.ledger.summary)
                }
            };
            let Summary { transferred, bytes, copied, updated, unverified, .. } = done;
            let done =
                Summary { transferred, bytes, copied, updated, unverified, ..Summary::default() };
            // Its scans end, and its temporary files are free for the next.
            drop(run);
            let mut sorted = Run::new(job, route, context, (Order::Sort, catalog))?;
            sorted.ledger.summary = done;
            let driven = sorted.drive(stop).await;
            errors.append(&mut sorted.ledger.errors);
            driven.map(|()| sorted.ledger.summary)
        }
        outcome => outcome.map(|()| run.ledger.summary),
    }
}

/// Planning pauses while this many steps wait.
const STEPS_AHEAD: usize = 4096;
/// Items merged before other work gets its turn.
const MERGE_ITEMS: usize = 512;

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
    seen_there: Seen,
    /// Where the listings of source and target can be cut.
    splits: (Splits, Splits),
    /// Where that of the target can be cut once this run is through.
    target_ends: Ends,
    plan: Plan,
    planned: bool,
    complete: bool,
    work: Work<'a>,
    deletes: Spool,
    prunes: Spool,
    memory: Memory,
    ledger: Ledger<'a>,
}

impl<'a> Run<'a> {
    fn new(
        job: &'a Job,
        route: &'a Route<'a>,
        context: &'a Context<'a>,
        (order, catalog): (Order, Option<&Arc<Catalog>>),
    ) -> Result<Self> {
        let (seen, seen_there) = (Seen::default(), Seen::default());
        let splits =
            (splits(catalog, catalog::Side::Source), splits(catalog, catalog::Side::Target));
        let (source, target) = route.scan((&seen, &seen_there), order, splits.clone());
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
            seen_there,
            splits,
            target_ends: Ends::default(),
            plan: Plan::new(rules),
            planned: false,
            complete: false,
            work: Work::new(job, route, context),
            deletes: Spool::new()?,
            prunes: Spool::new()?,
            memory: Memory::new(catalog.map(Arc::clone)),
            ledger: Ledger::new(context.observer),
        })
    }

    async fn drive(&mut self, stop: &Stop) -> Result<()> {
        let driven = self.drive_to_end(stop).await;
        // A killed run keeps what was written; this one all that it knows.
        self.memory.write_rest().await;
        self.tell_troubles();
        driven
    }

    async fn drive_to_end(&mut self, stop: &Stop) -> Result<()> {
        let mut running = Running::new();
        let ended = self.transfer_all(stop, &mut running).await;
        if let Ok(End::Stopped) = ended {
            self.wind_up(&mut running).await;
        }
        // Futures that are dropped leave behind only what the next run knows of.
        drop(running);
        self.context.abort_uploads().await;
        if let Ok(End::Whole) = ended {
            return self.finish(stop).await;
        }
        // What is fetched and verified lands, however the run ends.
        let landed = self.route.land(self.work.take_group()).await;
        self.account(landed);
        match ended {
            Ok(End::Stopped) => self.ledger.summary.interrupted = true,
            Ok(End::GaveUp) => self.ledger.give_up(),
            Ok(End::Whole) | Err(_) => {}
        }
        self.route.sync()?;
        ended.map(drop)
    }

    /// The run is to stop: what is under way may end, if that does not take long.
    async fn wind_up(&mut self, running: &mut Running<'a>) {
        if !running.is_empty() {
            self.ledger.tell(&Event::Notice(
                "stopping: what is under way has four seconds to end; a second signal ends it at once",
            ));
        }
        let ends = tokio::time::Instant::now() + GRACE;
        while let Ok(Some(unit)) = tokio::time::timeout_at(ends, running.next()).await {
            let done = self.work.ended(unit);
            self.settle(done);
        }
    }

    fn tell_troubles(&mut self) {
        for trouble in std::mem::take(&mut self.memory.troubles) {
            self.ledger.tell(&Event::Notice(&trouble.to_string()));
        }
    }

    async fn transfer_all(&mut self, stop: &Stop, running: &mut Running<'a>) -> Result<End> {
        let mut stopped = std::pin::pin!(stop.requested());
        loop {
            self.work.dispatch(running, &mut self.memory, self.planned);
            self.announce_completeness();
            let waiting = self.work.queue.waiting();
            if running.is_empty() && self.planned && waiting == 0 {
                // What was stopped has not been done, though nothing is under way any more.
                return Ok(if stop.is_requested() { End::Stopped } else { End::Whole });
            }
            if self.ledger.has_lost(self.job.transfers) {
                return Ok(End::GaveUp);
            }
            let may_plan = !self.planned && waiting < STEPS_AHEAD && !self.memory.is_full();
            let due = self.work.due(&self.memory);
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(End::Stopped),
                Some(unit) = running.next(), if !running.is_empty() => {
                    let done = self.work.ended(unit);
                    self.settle(done);
                }
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
                self.planned = self.memory.seek(None, filter).await;
                break;
            };
            let head = if side == Side::Target { self.target.head() } else { self.source.head() };
            let mut record = None;
            if let Some(key) = head.and_then(Scanned::position) {
                if !self.memory.seek(Some(key), filter).await {
                    break;
                }
                record = self.memory.take(key);
            }
            let source = (side != Side::Target).then(|| self.source.pop()).flatten();
            let target = (side != Side::Source).then(|| self.target.pop()).flatten();
            self.ledger.saw(source.as_ref(), target.as_ref());
            self.count_target(source.as_ref(), target.as_ref());
            let found = Found { source, target, record };
            self.plan.step(found, self.source.head(), &mut steps);
            steps.drain(..).try_for_each(|step| self.take(step))?;
        }
        Ok(())
    }

    /// Counts what the target will hold.
    fn count_target(&mut self, source: Option<&Scanned>, target: Option<&Scanned>) {
        let is_sent = |entry: &Entry| entry.kind != (EntryKind::Directory { empty: false });
        let entry = match (source, target) {
            (Some(Scanned::Entry(entry)), _) if is_sent(entry) => Some(entry),
            (_, Some(Scanned::Entry(entry))) if !self.job.delete => Some(entry),
            _ => None,
        };
        if let Some(entry) = entry {
            self.target_ends.count(entry.key.as_str());
        }
    }

    /// A scan that fails before it gave anything means that the run could not start.
    fn not_started(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Unordered | ErrorKind::Usage | ErrorKind::Refused => error,
            _ if self.ledger.saw_nothing() => error.into_setup(),
            _ => error,
        }
    }

    fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Act(action) => {
                if self.job.compare == CompareBy::Bytes {
                    self.work.queue.read_alone(&action);
                }
                self.act(action, None)
            }
            Step::Compare(pair) => {
                self.work.queue.pairs.push_back(pair);
                Ok(())
            }
            Step::Prune(directory) => self.prunes.put(&directory),
            Step::Unread(gap) => {
                self.ledger.unread(&gap);
                Ok(())
            }
        }
    }

    /// `hash` is what the source's file hashes to, where the comparison had to read it.
    fn act(&mut self, action: Action, hash: Option<FileHash>) -> Result<()> {
        self.ledger.planned(&action);
        match action {
            Action::Transfer { source, replaces, .. } | Action::Copy { source, replaces, .. } => {
                if self.job.delete && self.job.effect == Effect::Apply && replaces.is_none() {
                    self.ledger.may_be_renamed(&source.key);
                }
                self.work.transfer(Transfer { entry: source, hash });
            }
            Action::Update { source, target, record } => {
                self.work.update(Pair { source, target, record: Some(record) });
            }
            Action::Delete { target } => self.deletes.put(&target)?,
            Action::Keep { .. } | Action::Spare { .. } | Action::Refuse { .. } => {}
        }
        Ok(())
    }

    /// Says once that the totals are known.
    fn announce_completeness(&mut self) {
        if self.planned && self.work.undecided() == 0 && !self.complete {
            self.complete = true;
            self.ledger.tell(&Event::PlanComplete);
        }
    }

    fn settle(&mut self, done: Done) {
        match done {
            Done::Moved(moved) => self.account(moved.ended),
            Done::Read(key, Ok(disagreements)) => self.ledger.disagree(&key, &disagreements),
            Done::Read(key, Err(error)) => self.fail(key, error),
            Done::Written(trouble) => self.memory.troubles.extend(trouble),
            Done::Resolved(answers) => answers.into_iter().for_each(|answer| self.resolved(answer)),
        }
        self.tell_troubles();
    }

    fn resolved(&mut self, answer: Answer) {
        let Answer { pair, verdict, hash, disagreements } = answer;
        self.ledger.disagree(&pair.source.key, &disagreements);
        let verdict = match verdict {
            // A target that can't be read is replaced; a source that can't be is a failure.
            Err(error) if self.route.deed() == Deed::Download && is_unread(error.kind()) => {
                Verdict::Different(Why::Unknown)
            }
            Err(error) => return self.fail(pair.source.key, error),
            Ok(verdict) => verdict,
        };
        // What it finds is not remembered: rot on one side must not look like a change of it.
        let by_bytes = self.job.compare == CompareBy::Bytes;
        let action = match verdict {
            Verdict::Same(by) => {
                if let Some(record) = pair.record.as_ref().filter(|_| !by_bytes) {
                    let parts = hash.as_ref().and_then(|hash| hash.parts_of(record.size));
                    self.memory.note(Change::Put(record.clone(), parts));
                }
                self.plan.keep(pair, by)
            }
            Verdict::Different(why) => self.plan.transfer(pair.source, Some(pair.target), why),
            Verdict::NeedsHash => self.plan.transfer(pair.source, Some(pair.target), Why::Unknown),
        };
        // Neither a transfer nor a keep touches the spool, which alone can fail.
        let _ = self.act(action, hash);
    }

    fn fail(&mut self, key: Key, error: Error) {
        let deed = self.route.deed();
        let outcome = Outcome { key, deed, result: Err(error), unverified: false };
        self.ledger.ended(&outcome);
    }

    fn account(&mut self, ended: Vec<Ended>) {
        for Ended { outcome, change } in ended {
            if let Some(change) = change.filter(|_| outcome.result.is_ok()) {
                self.memory.note(change);
            }
            self.ledger.ended(&outcome);
        }
    }
}

fn splits(catalog: Option<&Arc<Catalog>>, side: catalog::Side) -> Splits {
    // What can't be read is told by whoever needs it.
    Splits::new(catalog.and_then(|catalog| catalog.ends(side).ok().flatten()))
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}
