//! The progress of a run: counters that the engine's events feed, and a ticker that draws them a
//! few times a second, as bars on a terminal or as a plain line now and then.

use haul::{Action, Key, Outcome};
use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often bars are drawn.
const FRAME: Duration = Duration::from_millis(150);
/// How often a line is printed where there are no bars.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Transfers from this size on are shown by name.
const LARGE_BYTES: u64 = 16 << 20;
/// So many of them, the largest.
const LARGE_SHOWN: usize = 3;

/// Counters of one run. Cheap to clone.
#[derive(Clone, Default)]
pub struct Meter(Arc<Counters>);

struct Counters {
    files: AtomicU64,
    files_total: AtomicU64,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    checked: AtomicU64,
    read: AtomicU64,
    complete: AtomicBool,
    started: Instant,
    large: Mutex<HashMap<Key, Large>>,
}

#[derive(Clone, Copy)]
struct Large {
    bytes: u64,
    total: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            files: AtomicU64::default(),
            files_total: AtomicU64::default(),
            bytes: AtomicU64::default(),
            bytes_total: AtomicU64::default(),
            checked: AtomicU64::default(),
            read: AtomicU64::default(),
            complete: AtomicBool::default(),
            started: Instant::now(),
            large: Mutex::default(),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Meter {
    fn large(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Large>> {
        self.0.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub fn planned(&self, action: &Action) {
        match action {
            Action::Transfer { source, .. } | Action::Copy { source, .. } => {
                add(&self.0.files_total, 1);
                add(&self.0.bytes_total, source.size);
            }
            Action::Keep { .. } => add(&self.0.checked, 1),
            Action::Update { .. }
            | Action::Delete { .. }
            | Action::Spare { .. }
            | Action::Refuse { .. } => {}
        }
    }

    pub fn complete(&self) {
        self.0.complete.store(true, Ordering::Relaxed);
    }

    /// Planning begins again: what was not done yet will be planned anew.
    pub fn restart(&self) {
        self.0.complete.store(false, Ordering::Relaxed);
        self.0.files_total.store(get(&self.0.files), Ordering::Relaxed);
        self.0.bytes_total.store(get(&self.0.bytes), Ordering::Relaxed);
        self.0.checked.store(0, Ordering::Relaxed);
    }

    pub fn started(&self, key: &Key, total: u64) {
        if total >= LARGE_BYTES {
            self.large().insert(key.clone(), Large { bytes: 0, total });
        }
    }

    /// A transfer that nothing has planned.
    pub fn started_alone(&self, key: &Key, total: u64) {
        add(&self.0.files_total, 1);
        add(&self.0.bytes_total, total);
        self.started(key, total);
    }

    pub fn read(&self, bytes: u64) {
        add(&self.0.read, bytes);
    }

    pub fn moved(&self, key: &Key, bytes: u64) {
        add(&self.0.bytes, bytes);
        if let Some(large) = self.large().get_mut(key) {
            large.bytes += bytes;
        }
    }

    /// So many bytes need not move after all.
    pub fn skipped(&self, key: &Key, bytes: u64) {
        let less = |total: u64| Some(total.saturating_sub(bytes));
        let _ = self.0.bytes_total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if let Some(large) = self.large().get_mut(key) {
            large.bytes += bytes;
        }
    }

    /// What a run that is stopped has not done: files, bytes, and whether that is all.
    pub fn left(&self) -> (u64, u64, bool) {
        let counters = &self.0;
        let files = get(&counters.files_total).saturating_sub(get(&counters.files));
        let bytes = get(&counters.bytes_total).saturating_sub(get(&counters.bytes));
        (files, bytes, counters.complete.load(Ordering::Relaxed))
    }

    pub fn finished(&self, outcome: &Outcome) {
        if !matches!(outcome.deed, haul::Deed::Update | haul::Deed::Delete) {
            add(&self.0.files, 1);
        }
        // The server says nothing while it copies.
        if let (haul::Deed::Copy, Ok(bytes)) = (outcome.deed, &outcome.result) {
            add(&self.0.bytes, *bytes);
        }
        self.large().remove(&outcome.key);
    }

    /// The largest transfers under way, at most three.
    fn largest(&self) -> Vec<(String, Large)> {
        let mut all: Vec<(String, Large)> =
            self.large().iter().map(|(key, large)| (key.to_string(), *large)).collect();
        all.sort_by(|a, b| b.1.total.cmp(&a.1.total).then_with(|| a.0.cmp(&b.0)));
        all.truncate(LARGE_SHOWN);
        all
    }

    /// Files, rate, and the time that is left; "scanning" until the totals are known.
    fn status(&self) -> String {
        let counters = &self.0;
        let (files, total) = (get(&counters.files), get(&counters.files_total));
        let (bytes, bytes_total) = (get(&counters.bytes), get(&counters.bytes_total));
        let millis = self.elapsed().as_millis().max(1);
        let rate = u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX);
        let left = bytes_total.saturating_sub(bytes);
        let eta = match (counters.complete.load(Ordering::Relaxed), rate) {
            (false, _) => "scanning".to_owned(),
            (true, 0) => "ETA -".to_owned(),
            (true, rate) => {
                let eta = Duration::from_secs(left.div_ceil(rate));
                format!("ETA {}", humantime::format_duration(eta))
            }
        };
        let checked = match get(&counters.checked) {
            0 => String::new(),
            checked => format!("  {} the same", HumanCount(checked)),
        };
        let read = match get(&counters.read) {
            0 => String::new(),
            read => format!("  {} hashed", HumanBytes(read)),
        };
        // What matters most comes first: a narrow terminal cuts the end.
        format!(
            "{eta:<9} {}/{} files  {}/{}  {}/s{checked}{read}",
            HumanCount(files),
            HumanCount(total),
            HumanBytes(bytes),
            HumanBytes(bytes_total),
            HumanBytes(rate),
        )
    }
}

/// The thread that draws.
pub struct Ticker {
    bars: Option<MultiProgress>,
    quit: Sender<()>,
    thread: JoinHandle<()>,
    meter: Meter,
}

impl Ticker {
    pub fn start(meter: &Meter, draw_bars: bool) -> Self {
        let bars = draw_bars.then(MultiProgress::new);
        let (quit, asked) = channel();
        let (shown, watched) = (bars.clone(), meter.clone());
        let thread = std::thread::spawn(move || {
            let mut drawing = shown.map(|bars| Drawing::new(&bars, watched.clone()));
            let pause = if drawing.is_some() { FRAME } else { LINE_EVERY };
            while asked.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                match &mut drawing {
                    Some(drawing) => drawing.draw(),
                    None => super::note(&format!("haul: {}", watched.status())),
                }
            }
            if let Some(drawing) = drawing {
                drawing.clear();
            }
        });
        Self { bars, quit, thread, meter: meter.clone() }
    }

    /// Prints a line above the bars.
    pub fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| super::note(line)),
            None => super::note(line),
        }
    }

    /// Ends the drawing; answers how long it took.
    pub fn stop(self) -> Duration {
        let _ = self.quit.send(());
        let _ = self.thread.join();
        self.meter.elapsed()
    }
}

struct Drawing {
    overall: ProgressBar,
    large: Vec<ProgressBar>,
    meter: Meter,
}

impl Drawing {
    fn new(bars: &MultiProgress, meter: Meter) -> Self {
        let overall = bars.add(ProgressBar::new(0));
        overall.set_style(style("{spinner} [{bar:12}] {wide_msg}"));
        let large = (0..LARGE_SHOWN).map(|_| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(style(""));
            bar
        });
        Self { overall, large: large.collect(), meter }
    }

    fn draw(&mut self) {
        let counters = &self.meter.0;
        let (bytes, files) = (get(&counters.bytes_total), get(&counters.files_total));
        // Where there are only empty files or copies, files are what moves on.
        let (position, length) = match bytes {
            0 => (get(&counters.files), files),
            total => (get(&counters.bytes), total),
        };
        self.overall.set_length(length.max(1));
        self.overall.set_position(position.min(length));
        self.overall.set_message(self.meter.status());
        self.overall.tick();
        let largest = self.meter.largest();
        for (index, bar) in self.large.iter().enumerate() {
            match largest.get(index) {
                Some((name, large)) => {
                    bar.set_style(style("  [{bar:20}] {bytes:>10}/{total_bytes:<10} {wide_msg}"));
                    bar.set_length(large.total);
                    bar.set_position(large.bytes.min(large.total));
                    bar.set_message(name.clone());
                }
                None => bar.set_style(style("")),
            }
            bar.tick();
        }
    }

    fn clear(self) {
        for bar in self.large {
            bar.finish_and_clear();
        }
        self.overall.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
