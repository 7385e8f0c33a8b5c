//! How hard an endpoint is worked: requests in flight, requests a second.
//!
//! The requests in flight start modest, grow as long as that brings more through, and are halved
//! when the server says that it is too much. Since a server may count requests a second, which a
//! fast answer turns into many, their rate is capped then, too, and grows back along the curve of
//! CUBIC (RFC 9438, with its constants), as in the adaptive mode of the AWS SDKs.

use super::connector::Traffic;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Requests in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// Always so many.
    Fixed(usize),
    /// 16 at first; more, up to 256, where that brings more through; fewer where the server is
    /// busy.
    Adaptive,
}

const FIRST: usize = 16;
const MOST: usize = 256;
/// How long to look before the next change.
const WINDOW: Duration = Duration::from_millis(250);
/// The same while it grows, once each place has served so many requests: answers from near by tell
/// sooner.
const SHORT_WINDOW: Duration = Duration::from_millis(80);
const REQUESTS_A_PLACE: usize = 3;
/// More is kept if it brings so much more through.
const GAIN: f64 = 1.08;
/// After a change that brought nothing, so many windows pass before the next is tried.
const REST: u32 = 20;
/// A request costs as much as so many bytes, when throughput is compared.
const REQUEST_BYTES: f64 = 65_536.0;
/// What is left of the rate when the server is busy, and how fast it grows back (RFC 9438).
const CUBIC_BETA: f64 = 0.7;
const CUBIC_C: f64 = 0.4;
/// The slowest that a busy server makes us, in requests a second.
const LEAST_RATE: f64 = 0.5;
/// The most time between two requests, however low their rate: clocks do not go on for ever.
const FARTHEST: Duration = Duration::from_hours(24);

/// Hands out places among the requests in flight.
#[derive(Debug)]
pub(super) struct Pace {
    permits: Arc<Semaphore>,
    adapts: bool,
    requests_per_second: Option<f64>,
    traffic: Arc<Traffic>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Places that are to vanish when they are given back.
    surplus: usize,
    /// Counts the times the server was busy, so that one overload halves only once.
    overloads: u64,
    /// Nothing is sent before this.
    pause: Option<Instant>,
    slots: Slots,
    cap: Option<Cap>,
    window: Window,
}

/// Requests are spaced by their rate.
#[derive(Debug)]
struct Slots {
    next: Instant,
}

/// The rate that a busy server has taught.
#[derive(Clone, Copy, Debug)]
struct Cap {
    /// The rate at the time of the overload.
    before: f64,
    since: Instant,
}

impl Cap {
    /// The rate by now: a quick return, care near the old rate, then ever faster growth.
    fn rate(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        let flat = (self.before * (1.0 - CUBIC_BETA) / CUBIC_C).cbrt();
        (CUBIC_C * (seconds - flat).powi(3) + self.before).max(LEAST_RATE)
    }
}

/// What passed while the limit was the same.
#[derive(Debug)]
struct Window {
    since: Instant,
    done: u64,
    bytes: u64,
    /// More would have been sent, had there been places.
    starved: bool,
    /// The limit and throughput before the last change, until it is known whether that was good.
    before: Option<(usize, f64)>,
    /// Nothing has stopped the growth yet.
    growing: bool,
    rest: u32,
}

impl Pace {
    pub(super) fn new(
        concurrency: Concurrency,
        requests_per_second: Option<f64>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let (limit, adapts) = match concurrency {
            Concurrency::Fixed(limit) => (limit.max(1), false),
            Concurrency::Adaptive => (FIRST, true),
        };
        let now = Instant::now();
        let window = Window {
            since: now,
            done: 0,
            bytes: 0,
            starved: false,
            before: None,
            growing: true,
            rest: 0,
        };
        let state = State {
            limit,
            surplus: 0,
            overloads: 0,
            pause: None,
            slots: Slots { next: now },
            cap: None,
            window,
        };
        let permits = Arc::new(Semaphore::new(limit));
        Self { permits, adapts, requests_per_second, traffic, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place, and for the moment when a request may be sent.
    pub(super) async fn take(self: &Arc<Self>) -> Turn {
        let permit = if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            permit
        } else {
            self.state().window.starved = true;
            let permit = Arc::clone(&self.permits).acquire_owned().await;
            permit.expect("the semaphore is never closed")
        };
        let place = Place { permit: Some(permit), pace: Arc::clone(self) };
        let overloads = self.wait().await;
        Turn { place: Arc::new(place), overloads }
    }

    /// Waits until a request may be sent; answers how often the server was busy before.
    async fn wait(&self) -> u64 {
        loop {
            let now = Instant::now();
            let (due, overloads) = {
                let mut state = self.state();
                if let Some(pause) = state.pause.filter(|pause| *pause > now) {
                    (pause, None)
                } else {
                    let taught = state.cap.map(|cap| cap.rate(now));
                    let rates = [self.requests_per_second, taught];
                    let due = match rates.into_iter().flatten().reduce(f64::min) {
                        Some(rate) => state.slots.reserve(now, rate),
                        None => now,
                    };
                    (due, Some(state.overloads))
                }
            };
            if due > now {
                tokio::time::sleep_until(due).await;
            }
            // A slot that lay in a pause which began since is void.
            if let Some(overloads) = overloads
                && self.state().pause.is_none_or(|pause| pause <= due)
            {
                return overloads;
            }
        }
    }

    /// The server is too busy: fewer requests, and not before `pause` is over. `turn` is that of
    /// the request that was refused: many that were sent together count once.
    pub(super) fn overloaded(&self, turn: &Turn, pause: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(pause) = pause {
            let until = now + pause;
            let until = state.pause.map_or(until, |before| before.max(until));
            state.pause = Some(until);
            // Slots that lie in the pause are given out again behind those that do not.
            state.slots.next = state.slots.next.max(until);
        }
        if turn.overloads < state.overloads {
            return;
        }
        state.overloads += 1;
        let rate = state.window.request_rate(now);
        // Too little has been seen for a rate: what was allowed before must do.
        let known = state.cap.map(|cap| cap.rate(now));
        let before = [rate, known].into_iter().flatten().reduce(f64::min).unwrap_or(100.0);
        state.cap = Some(Cap { before, since: now });
        if self.adapts {
            let halved = (state.limit / 2).max(1);
            self.set_limit(&mut state, halved);
            state.window.growing = false;
            state.window.rest = REST;
        }
        state.window.begin(now, self.traffic.bytes());
    }

    fn set_limit(&self, state: &mut State, limit: usize) {
        if limit > state.limit {
            let more = limit - state.limit;
            let kept = more.min(state.surplus);
            state.surplus -= kept;
            self.permits.add_permits(more - kept);
        } else {
            let fewer = state.limit - limit;
            let gone = self.permits.forget_permits(fewer);
            state.surplus += fewer - gone;
        }
        state.limit = limit;
    }

    /// A place comes back; answers whether it is to vanish.
    fn give_back(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        state.window.done += 1;
        if state.window.is_over(now, state.limit) {
            self.adapt(&mut state, now);
        }
        let vanishes = state.surplus > 0;
        state.surplus -= usize::from(vanishes);
        vanishes
    }

    /// Looks at what passed since the last change, and makes the next.
    fn adapt(&self, state: &mut State, now: Instant) {
        let bytes = self.traffic.bytes();
        let throughput = state.window.throughput(now, bytes);
        let wanted = state.window.starved
            && self.adapts
            && state.cap.is_none_or(|cap| {
                // Where the rate is what holds it back, more places bring nothing.
                cap.rate(now) > 2.0 * state.window.request_rate(now).unwrap_or(0.0)
            });
        let next = state.window.next(state.limit, throughput, wanted);
        self.set_limit(state, next);
        state.window.begin(now, bytes);
    }
}

impl Slots {
    fn reserve(&mut self, now: Instant, rate: f64) -> Instant {
        let due = self.next.max(now);
        let apart = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(FARTHEST);
        self.next = due + apart.min(FARTHEST);
        due
    }
}

impl Window {
    fn begin(&mut self, now: Instant, bytes: u64) {
        (self.since, self.done, self.bytes, self.starved) = (now, 0, bytes, false);
    }

    fn is_over(&self, now: Instant, limit: usize) -> bool {
        let elapsed = now.saturating_duration_since(self.since);
        let tells = self.growing && self.done >= (REQUESTS_A_PLACE * limit) as u64;
        elapsed >= WINDOW || (tells && elapsed >= SHORT_WINDOW)
    }

    #[expect(clippy::cast_precision_loss, reason = "a measure, not a count")]
    fn throughput(&self, now: Instant, bytes: u64) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64().max(0.001);
        let work = self.done as f64 * REQUEST_BYTES + bytes.saturating_sub(self.bytes) as f64;
        work / seconds
    }

    /// Requests a second, where enough have ended to say.
    #[expect(clippy::cast_precision_loss, reason = "a measure, not a count")]
    fn request_rate(&self, now: Instant) -> Option<f64> {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        (self.done >= 8 && seconds > 0.02).then(|| self.done as f64 / seconds)
    }

    /// The next limit. Doubles until that brings nothing more, then tries a little more now and
    /// then.
    fn next(&mut self, limit: usize, throughput: f64, wanted: bool) -> usize {
        if let Some((before, was)) = self.before.take()
            && throughput < was * GAIN
        {
            self.growing = false;
            self.rest = REST;
            return before;
        }
        self.rest = self.rest.saturating_sub(1);
        if !wanted || self.rest > 0 || limit >= MOST {
            return limit;
        }
        self.before = Some((limit, throughput));
        let more = if self.growing { limit } else { (limit / 4).max(1) };
        (limit + more).min(MOST)
    }
}

/// A place among the requests in flight. It travels with its request, and is given back when the
/// answer's body is done with.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    #[expect(dead_code, reason = "it is held, not looked at")]
    place: Arc<Place>,
    overloads: u64,
}

#[derive(Debug)]
struct Place {
    permit: Option<OwnedSemaphorePermit>,
    pace: Arc<Pace>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (true, Some(permit)) = (self.pace.give_back(), self.permit.take()) {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window {
            since: Instant::now(),
            done: 0,
            bytes: 0,
            starved: true,
            before: None,
            growing: true,
            rest: 0,
        }
    }

    #[test]
    fn places_double_while_that_brings_more_and_go_back_when_not() {
        let mut window = window();
        assert_eq!(window.next(16, 100.0, true), 32);
        assert_eq!(window.next(32, 190.0, true), 64);
        assert_eq!(window.next(64, 200.0, true), 32);
        for _ in 0..REST - 1 {
            assert_eq!(window.next(32, 195.0, true), 32);
        }
        assert_eq!(window.next(32, 195.0, true), 40);
        assert_eq!(window.next(40, 240.0, true), 50);
    }

    #[test]
    fn a_window_ends_soon_where_each_place_has_served_enough() {
        let (mut window, later) = (window(), |ms| Duration::from_millis(ms));
        let is_over = |window: &Window, ms| window.is_over(window.since + later(ms), FIRST);
        assert!(!is_over(&window, 249) && is_over(&window, 250));
        window.done = (REQUESTS_A_PLACE * FIRST) as u64;
        assert!(!is_over(&window, 79) && is_over(&window, 80));
        window.growing = false;
        assert!(!is_over(&window, 249));
    }

    #[test]
    fn nobody_waiting_needs_no_more_places() {
        let mut window = window();
        assert_eq!(window.next(16, 100.0, false), 16);
    }

    #[test]
    fn a_taught_rate_comes_back_to_what_it_was_and_then_grows() {
        let now = Instant::now();
        let cap = Cap { before: 100.0, since: now };
        assert!((cap.rate(now) - 70.0).abs() < 0.001);
        let flat = (100.0_f64 * 0.3 / 0.4).cbrt();
        let later = |seconds: f64| now + Duration::from_secs_f64(seconds);
        assert!((cap.rate(later(flat)) - 100.0).abs() < 0.001);
        assert!(cap.rate(later(flat + 5.0)) > 140.0);
    }

    #[tokio::test]
    async fn an_overload_halves_once_and_places_vanish() {
        let pace = Arc::new(Pace::new(Concurrency::Adaptive, None, Arc::default()));
        let mut turns = Vec::new();
        for _ in 0..FIRST {
            turns.push(pace.take().await);
        }
        for turn in &turns {
            pace.overloaded(turn, None);
        }
        assert_eq!((pace.state().limit, pace.permits.available_permits()), (8, 0));
        turns.clear();
        assert_eq!((pace.state().surplus, pace.permits.available_permits()), (0, 8));
    }

    #[tokio::test]
    async fn a_fixed_number_stays() {
        let pace = Arc::new(Pace::new(Concurrency::Fixed(3), None, Arc::default()));
        let turn = pace.take().await;
        pace.overloaded(&turn, None);
        drop(turn);
        assert_eq!((pace.state().limit, pace.permits.available_permits()), (3, 3));
    }
}
