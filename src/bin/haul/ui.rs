//! What people and programs see of a run: one face in front, chosen once.
//!
//! stdout is data (plans, JSON), stderr is for people. Events come inline from the engine, so a
//! face only counts; a ticker draws.

mod json;
mod meter;
mod text;

use crate::args::Global;
use haul::entry::Gap;
use haul::{Effect, Event, Job, Observer, Outcome, Place, Result, Summary};
use meter::{Meter, Ticker};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

/// A line of data. A reader that has gone must not end a run half-way, so nothing fails here.
fn out(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line for people.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// What kind of command is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// It changes things.
    Run,
    /// It prints what it would do.
    Plan,
    /// It prints what differs.
    Check,
}

impl Style {
    fn of(effect: Effect) -> Self {
        match effect {
            Effect::Apply => Self::Run,
            Effect::Plan => Self::Plan,
            Effect::Check => Self::Check,
        }
    }
}

/// The observer of a run.
pub struct Face {
    style: Style,
    effect: Effect,
    json: bool,
    quiet: bool,
    verbose: bool,
    source: Place,
    target: Place,
    mapped: AtomicBool,
    meter: Meter,
    ticker: Option<Ticker>,
    /// The lines of a plan: kept until the plan is whole, since it may begin again.
    lines: Mutex<text::Lines>,
}

impl Face {
    pub fn new(global: &Global, job: &Job) -> Self {
        let style = Style::of(job.effect);
        let meter = Meter::default();
        let ticker = wants_progress(global).then(|| Ticker::start(&meter, draws_bars(global)));
        Self {
            style,
            effect: job.effect,
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose > 0,
            source: job.source.clone(),
            target: job.target.clone(),
            mapped: AtomicBool::new(global.quiet || global.json || style != Style::Run),
            meter,
            ticker,
            lines: Mutex::default(),
        }
    }

    /// Ends the drawing, prints what is left to say, and hands the outcome on.
    pub fn end(self, outcome: Result<Summary>) -> Result<Summary> {
        let Self { ticker, lines, .. } = self;
        let elapsed = ticker.map(Ticker::stop);
        lines.into_inner().unwrap_or_else(PoisonError::into_inner).print()?;
        let summary = outcome?;
        if self.json {
            out(&json::summary(&summary, summary.exit_code_of(self.effect)));
        }
        if let Some(cause) = summary.gave_up.as_ref().or(summary.guard.as_ref()) {
            note(&format!("haul: {cause}"));
        }
        if !self.quiet && !self.json {
            let elapsed = elapsed.unwrap_or_else(|| self.meter.elapsed());
            note(&text::summary(&summary, self.style, elapsed));
            if summary.interrupted && self.style == Style::Run {
                note(&text::left(self.meter.left()));
            }
        }
        Ok(summary)
    }

    /// Prints a line for people above the bars.
    fn say(&self, line: &str) {
        match &self.ticker {
            Some(ticker) => ticker.say(line),
            None => note(line),
        }
    }

    fn data(&self, line: &str) {
        if self.style == Style::Run {
            out(line);
        } else {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn planned(&self, action: &haul::Action) {
        self.meter.planned(action);
        if !self.mapped.load(Ordering::Relaxed)
            && let haul::Action::Transfer { source, .. } | haul::Action::Copy { source, .. } =
                action
            && !self.mapped.swap(true, Ordering::Relaxed)
        {
            let key = source.key.as_str();
            self.say(&format!("{} -> {}", self.source.name(key), self.target.name(key)));
        }
        if self.style != Style::Run || self.verbose {
            let stays = matches!(action, haul::Action::Keep { .. } | haul::Action::Spare { .. });
            // In a run, what is done is told when it is done.
            let shown = match self.style {
                Style::Run => stays || self.json,
                Style::Plan | Style::Check => {
                    self.verbose || !matches!(action, haul::Action::Keep { .. })
                }
            };
            if self.json && shown {
                self.data(&json::planned(action, self.style));
            } else if shown && !self.json {
                let line = text::planned(action, self.style);
                if self.style == Style::Run {
                    self.say(&line);
                } else {
                    self.data(&line);
                }
            }
        }
        if let haul::Action::Refuse { name, reason } = action {
            self.say(&format!("haul: cannot transfer {}: {reason}", haul::key::printable(name)));
        }
    }

    fn unread(&self, gap: &Gap) {
        let name = if gap.name().is_empty() { "the root" } else { gap.name() };
        self.say(&format!("haul: cannot read {}: {}", haul::key::printable(name), gap.cause()));
        if self.json {
            self.data(&json::unread(gap));
        }
    }

    fn disagreement(&self, key: &haul::Key, what: &str) {
        let line = match self.json {
            true => json::disagreement(key, what),
            false => text::disagreement(key, what),
        };
        self.data(&line);
    }

    fn finished(&self, outcome: &Outcome) {
        self.meter.finished(outcome);
        if let Err(error) = &outcome.result {
            self.say(&format!("haul: {error}"));
        } else if self.verbose && !self.json {
            self.say(&format!("{} {}", outcome.deed.name(), outcome.key));
        }
        if self.json {
            self.data(&json::finished(outcome));
        }
    }
}

fn wants_progress(global: &Global) -> bool {
    !global.quiet && !global.no_progress && (!global.json || global.progress)
}

fn draws_bars(global: &Global) -> bool {
    global.progress || std::io::stderr().is_terminal()
}

impl Observer for Face {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Planned(action) => self.planned(action),
            Event::Unread(gap) => self.unread(gap),
            Event::PlanComplete => self.meter.complete(),
            Event::Restarted => {
                self.meter.restart();
                self.lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
                if self.verbose {
                    self.say("the server lists out of order; sorting on disk");
                }
            }
            Event::Started { key, bytes } => self.meter.started(key, *bytes),
            Event::Moved { key, bytes } => self.meter.moved(key, *bytes),
            Event::Skipped { key, bytes } => self.meter.skipped(key, *bytes),
            Event::Read { bytes } => self.meter.read(*bytes),
            Event::Disagreement { key, what } => self.disagreement(key, what),
            Event::Finished(outcome) => self.finished(outcome),
            Event::Notice(text) => self.say(text),
            Event::Remark { key, text } if self.verbose => self.say(&format!("{key}: {text}")),
            _ => {}
        }
    }
}

/// The observer of a single transfer.
pub struct Single {
    meter: Meter,
    ticker: Option<Ticker>,
    json: bool,
    verbose: bool,
}

impl Single {
    pub fn new(global: &Global) -> Self {
        let meter = Meter::default();
        meter.complete();
        let bars = wants_progress(global) && draws_bars(global);
        let ticker = bars.then(|| Ticker::start(&meter, true));
        Self { meter, ticker, json: global.json, verbose: global.verbose > 0 }
    }

    /// Ends the drawing.
    pub fn end(self) {
        if let Some(ticker) = self.ticker {
            ticker.stop();
        }
    }

    fn say(&self, line: &str) {
        match &self.ticker {
            Some(ticker) => ticker.say(line),
            None => note(line),
        }
    }

    pub fn done(self, source: &str, target: &str, bytes: u64) {
        if let Some(ticker) = self.ticker {
            ticker.stop();
        }
        if self.json && target != "-" {
            out(&json::copied(source, target, bytes));
        } else if self.verbose {
            note(&format!("{source} -> {target} ({})", indicatif::HumanBytes(bytes)));
        }
    }
}

impl Observer for Single {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Started { key, bytes } => self.meter.started_alone(key, *bytes),
            Event::Moved { key, bytes } => self.meter.moved(key, *bytes),
            Event::Skipped { key, bytes } => self.meter.skipped(key, *bytes),
            Event::Read { bytes } => self.meter.read(*bytes),
            Event::Unread(gap) => {
                let name = haul::key::printable(gap.name());
                self.say(&format!("haul: cannot read {name}: {}", gap.cause()));
            }
            Event::Finished(Outcome { result: Err(error), .. }) => {
                self.say(&format!("haul: {error}"));
            }
            Event::Notice(text) => self.say(text),
            Event::Remark { key, text } if self.verbose => self.say(&format!("{key}: {text}")),
            _ => {}
        }
    }
}
