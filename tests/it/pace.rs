//! How hard a server is worked: as hard as it can bear, and no harder than was said.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::proxy::Passed;
use crate::support::run::Run;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    rate_that_a_server_bears_is_learned,
    rate_that_a_slow_server_bears_is_learned,
    rate_that_a_server_bears_is_learned_with_a_fixed_number_of_requests,
    nothing_is_sent_before_retry_after_is_over,
    nothing_is_sent_before_retry_after_is_over_with_a_rate_limit,
    fixed_number_of_requests_is_never_exceeded,
    requests_in_flight_begin_at_16_and_grow,
    bandwidth_limit_holds_for_one_large_file,
    bandwidth_limit_holds_for_many_small_files,
    bandwidth_limit_does_not_count_as_hanging,
    bandwidth_follows_the_time_of_day,
    request_limit_holds,
    memory_limit_holds_for_mixed_files,
    memory_limit_holds_for_uploads,
    memory_limit_holds_for_downloads,
    bad_limits_are_refused,
}

const MB: u64 = 1_000_000;

/// A tree of small files, none like another.
fn small_files(site: &Site, count: u64, bytes: usize) -> String {
    let up = site.directory("up");
    for number in 0..count {
        tree::file(&up, format!("d{}/f{number}", number % 7), tree::noise(bytes, number + 1));
    }
    up
}

/// Fails unless exactly these keys are in the bucket, each with its size.
#[track_caller]
fn assert_arrived(site: &Site, count: u64, bytes: usize) {
    let listed = site.bucket.list();
    assert_eq!(listed.len() as u64, count);
    let wrong = listed.iter().find(|(_, object)| object.size != bytes as u64);
    assert!(wrong.is_none(), "{wrong:?}");
}

fn share(part: usize, whole: usize) -> f64 {
    f64::from(u32::try_from(part).unwrap()) / f64::from(u32::try_from(whole).unwrap())
}

/// Says what was measured: shown with `--nocapture`, and where the test fails.
fn report(what: &str, value: impl std::fmt::Debug) {
    println!("measured: {what}: {value:?}");
}

/// A run against a server that bears `per_second` requests a second; few are refused.
#[track_caller]
fn assert_learns(server: &Server, per_second: u32, latency: Duration, flags: &[&str]) {
    const FILES: u64 = 900;
    let site = Site::new(server);
    let up = small_files(&site, FILES, 50);
    site.proxy.rule(Rule::all(Fault::throttle(per_second, latency)));
    let outcome = site.haul_with(&["sync", &up, &site.url("")], flags).done();
    let passed = site.proxy.passed();
    assert_arrived(&site, FILES, 50);
    let begin = passed[0].arrived;
    let refused = |passed: &[&Passed]| passed.iter().filter(|one| one.status == 503).count();
    let all: Vec<&Passed> = passed.iter().collect();
    let later: Vec<&Passed> =
        passed.iter().filter(|one| one.arrived > begin + Duration::from_secs(2)).collect();
    let (early, late) = (share(refused(&all), all.len()), share(refused(&later), later.len()));
    let possible = Duration::from_secs(FILES) / per_second;
    report("refused, refused after 2 s, took, possible", (early, late, outcome.took, possible));
    assert!(early < 0.15, "{early} of {} were refused", all.len());
    assert!(late < 0.1, "after 2 s {late} of {} were refused", later.len());
    assert!(outcome.took < 4 * possible, "took {:?}, not {possible:?}", outcome.took);
}

fn rate_that_a_server_bears_is_learned(server: &Server) {
    assert_learns(server, 100, Duration::ZERO, &[]);
}

fn rate_that_a_slow_server_bears_is_learned(server: &Server) {
    assert_learns(server, 80, Duration::from_millis(150), &[]);
}

fn rate_that_a_server_bears_is_learned_with_a_fixed_number_of_requests(server: &Server) {
    assert_learns(server, 100, Duration::ZERO, &["-j", "64"]);
}

/// After the answer `Retry-After: 2`, what was under way arrives still; then nothing for 2 s.
#[track_caller]
fn assert_waits(server: &Server, flags: &[&str]) {
    const UNDER_WAY: Duration = Duration::from_millis(400);
    let site = Site::new(server);
    let up = small_files(&site, 150, 50);
    site.proxy.rule(Rule::every(Kind::Put, Fault::RetryAfter(2)).skip(40).times(1));
    site.haul_with(&["sync", &up, &site.url("")], flags).done();
    assert_arrived(&site, 150, 50);
    let passed = site.proxy.passed();
    let refused = passed.iter().find(|one| one.status == 503).expect("one was refused");
    let told = refused.answered.expect("it was answered");
    let (from, to) = (told + UNDER_WAY, told + Duration::from_millis(1950));
    let early: Vec<_> = passed
        .iter()
        .filter(|one| (from..to).contains(&one.arrived))
        .map(|one| (one.kind, one.arrived - told))
        .collect();
    assert!(early.is_empty(), "{} arrived in the pause: {early:?}", early.len());
    let last = passed.iter().map(|one| one.arrived).max().unwrap();
    assert!(last >= to, "nothing was left to be sent after the pause");
}

fn nothing_is_sent_before_retry_after_is_over(server: &Server) {
    assert_waits(server, &[]);
}

fn nothing_is_sent_before_retry_after_is_over_with_a_rate_limit(server: &Server) {
    assert_waits(server, &["--tpslimit", "60"]);
}

/// The most requests that were in flight at once, among those that arrived before `until`.
fn most_in_flight(passed: &[Passed], until: Option<Instant>) -> i32 {
    let seen = passed.iter().filter(|one| until.is_none_or(|until| one.arrived < until));
    let mut changes: Vec<(Instant, i32)> = seen
        .flat_map(|one| [Some((one.arrived, 1)), one.answered.map(|end| (end, -1))])
        .flatten()
        .collect();
    changes.sort_unstable();
    let sums = changes.iter().scan(0, |sum, (_, change)| {
        *sum += change;
        Some(*sum)
    });
    sums.max().unwrap_or(0)
}

fn fixed_number_of_requests_is_never_exceeded(server: &Server) {
    let site = Site::new(server);
    let up = small_files(&site, 300, 50);
    site.proxy.rule(Rule::all(Fault::delay(Duration::from_millis(20))));
    site.haul(&["sync", &up, &site.url(""), "-j", "4"]).done();
    assert_arrived(&site, 300, 50);
    assert_eq!(most_in_flight(&site.proxy.passed(), None), 4, "in flight when uploading");
    site.proxy.reset();
    site.proxy.rule(Rule::all(Fault::delay(Duration::from_millis(20))));
    site.haul(&["sync", &site.url(""), &site.at("down"), "-j", "4"]).done();
    tree::assert_same(&up, site.at("down"));
    assert_eq!(most_in_flight(&site.proxy.passed(), None), 4, "in flight when downloading");
}

fn requests_in_flight_begin_at_16_and_grow(server: &Server) {
    const FILES: u64 = 700;
    let site = Site::new(server);
    let up = small_files(&site, FILES, 50);
    site.proxy.rule(Rule::all(Fault::delay(Duration::from_millis(50))));
    site.haul(&["sync", &up, &site.url("")]).done();
    assert_arrived(&site, FILES, 50);
    let passed = site.proxy.passed();
    // None of the first is answered by then.
    let first = passed.iter().find(|one| one.kind == Kind::Put).expect("some were sent");
    let soon = first.arrived + Duration::from_millis(40);
    let (begin, all) = (most_in_flight(&passed, Some(soon)), most_in_flight(&passed, None));
    report("in flight at first, and at most", (begin, all));
    assert!(begin <= 16, "{begin} in flight at the beginning");
    assert!(all > 16, "{all} in flight at most");
}

/// Fails unless `bytes` took as long as `limit` bytes a second make it; what is sent at once, a
/// twentieth of a second's, is allowed for.
#[track_caller]
fn assert_rate(what: &str, bytes: u64, limit: u64, took: Duration) {
    let ideal = Duration::from_micros(bytes * MB / limit);
    report(what, took.as_secs_f64() / ideal.as_secs_f64());
    assert!(took >= ideal.mul_f64(0.95), "{what}: too fast: {took:?}, not {ideal:?}");
    // How late is the machine's matter; this only tells a limit from a standstill.
    assert!(took <= ideal.mul_f64(2.5), "{what}: too slow: {took:?}, not {ideal:?}");
}

/// From the first request of these kinds to the last answer to one.
fn span(passed: &[Passed], kinds: &[Kind]) -> (Instant, Duration) {
    let counted = || passed.iter().filter(|one| kinds.contains(&one.kind));
    let first = counted().map(|one| one.arrived).min().expect("some were sent");
    let last = counted().filter_map(|one| one.answered).max().expect("some were answered");
    (first, last - first)
}

/// Syncs `up` and back down, 4 MB a second. Going down the client is what is slow, while the
/// kernel's buffers take many bytes at once: there the run's end counts, at which the disk is
/// waited for.
#[track_caller]
fn assert_bandwidth(site: &Site, up: &str, bytes: u64) {
    let (limit, down) = (4 * MB, site.at("down"));
    site.haul(&["sync", up, &site.url(""), "--bwlimit", "4MB/s"]).done();
    let (_, took) = span(&site.proxy.passed(), &[Kind::Put, Kind::Part]);
    assert_rate("up", bytes, limit, took);
    site.proxy.reset();
    site.haul(&["sync", &site.url(""), &down, "--bwlimit", "4MB/s"]).done();
    let (first, _) = span(&site.proxy.passed(), &[Kind::Get]);
    assert_rate("down", bytes, limit, first.elapsed());
    tree::assert_same(up, &down);
}

fn bandwidth_limit_holds_for_one_large_file(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", 24 * MB, 1);
    assert_bandwidth(&site, &up, 24 * MB);
}

fn bandwidth_limit_holds_for_many_small_files(server: &Server) {
    let site = Site::new(server);
    let up = small_files(&site, 400, 50_000);
    assert_bandwidth(&site, &up, 20 * MB);
}

/// Each of many requests waits for longer than the idle timeout until it may send its next bytes.
fn bandwidth_limit_does_not_count_as_hanging(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for number in 0..64 {
        tree::file(&up, format!("f{number}"), tree::noise(60_000, number));
    }
    let flags = ["--bwlimit", "400KB/s", "-j", "64", "--idle-timeout", "2s", "--retries", "0"];
    site.haul_with(&["sync", &up, &site.url("")], &flags).done();
    assert_arrived(&site, 64, 60_000);
    let down = site.at("down");
    site.haul_with(&["sync", &site.url(""), &down], &flags).done();
    tree::assert_same(&up, &down);
}

/// A timetable with `now` in force for two hours more, and `later` from then on. In UTC.
fn timetable(now: &str, later: &str) -> String {
    let minute = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60;
    let at = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    format!("{},{now} {},{later}", at(minute + 22 * 60), at(minute + 2 * 60))
}

fn bandwidth_follows_the_time_of_day(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", 8 * MB, 1);
    let haul = |prefix: &str, limit: &str| {
        site.proxy.reset();
        let url = site.url(prefix);
        site.run(&["sync", &up, &url, "--bwlimit", limit]).env("TZ", "UTC0").finish().done();
        span(&site.proxy.passed(), &[Kind::Put, Kind::Part]).1
    };
    assert_rate("limited now", 8 * MB, 2 * MB, haul("a", &timetable("2MB/s", "off")));
    let unlimited = haul("b", &timetable("off", "500KB/s"));
    assert!(unlimited < Duration::from_secs(8), "limited where it is off: {unlimited:?}");
    let off = haul("c", "off");
    assert!(off < Duration::from_secs(8), "limited by `off`: {off:?}");
}

fn request_limit_holds(server: &Server) {
    const FILES: u64 = 260;
    let site = Site::new(server);
    let up = small_files(&site, FILES, 50);
    site.haul(&["sync", &up, &site.url(""), "--tpslimit", "50"]).done();
    assert_arrived(&site, FILES, 50);
    assert_request_rate(&site, FILES);
    site.proxy.reset();
    site.haul(&["sync", &site.url(""), &site.at("down"), "--tpslimit", "50"]).done();
    assert_request_rate(&site, FILES);
    tree::assert_same(&up, site.at("down"));
}

/// Fails unless at least so many requests came, of all kinds 50 a second.
#[track_caller]
fn assert_request_rate(site: &Site, at_least: u64) {
    let passed = site.proxy.passed();
    assert!(passed.len() as u64 > at_least, "{} requests", passed.len());
    let first = passed.iter().map(|one| one.arrived).min().unwrap();
    let last = passed.iter().map(|one| one.arrived).max().unwrap();
    let rate = f64::from(u32::try_from(passed.len() - 1).unwrap()) / (last - first).as_secs_f64();
    report("requests a second", rate);
    assert!((35.0..=52.5).contains(&rate), "{rate} requests a second");
}

/// Runs it, and tells the most memory that it had, in bytes.
#[track_caller]
fn peak_memory(run: Run) -> u64 {
    let running = run.start();
    let status = format!("/proc/{}/status", running.id());
    let watcher = thread::spawn(move || {
        let mut peak = 0;
        while let Some(kib) = high_water(&fs::read_to_string(&status).unwrap_or_default()) {
            peak = kib << 10;
            thread::sleep(Duration::from_millis(5));
        }
        peak
    });
    running.finish().done();
    watcher.join().unwrap()
}

/// `VmHWM` in KiB; a process that has ended has none.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// What the work itself takes beside its buffers of data: threads, sockets, hashers, and what is
/// read from a socket at a time, of which bytes that wait keep more alive than they are.
const WORK_BYTES: u64 = 10 << 20;

/// Fails unless the memory beyond that of a run with next to nothing to do is the limit at most.
/// Answers what was taken with the last.
#[track_caller]
fn assert_memory(what: &str, limits: &[u64], mut peak: impl FnMut(&str, u64) -> u64) -> u64 {
    let idle = peak("tiny", 128);
    let mut taken = 0;
    for &limit in limits {
        taken = peak("large", limit).saturating_sub(idle);
        report(what, (limit, taken >> 20, idle >> 20));
        let most = (limit << 20) * 105 / 100 + WORK_BYTES;
        assert!(taken <= most, "{what}: {taken} with {limit} MiB");
    }
    taken
}

/// Files of all sizes, of which each takes another buffer.
fn memory_limit_holds_for_mixed_files(server: &Server) {
    let site = Site::new(server);
    tree::file(site.directory("tiny"), "tiny", "tiny");
    let mixed = site.directory("large");
    let sizes = [3_000, 70_000, 300_000, 700_000, 2_500_000, 5_500_000];
    for (number, bytes) in (0..120).zip(sizes.into_iter().cycle()) {
        tree::generated(&mixed, format!("f{number}"), bytes + number * 1000, number);
    }
    assert_memory("up", &[32], |what, limit| {
        let (source, url) = (site.at(what), site.url(what));
        peak_memory(site.run(&["sync", &source, &url, "--max-memory", &format!("{limit}MiB")]))
    });
    site.haul(&["check", &mixed, &site.url("large")]).done();
}

fn memory_limit_holds_for_uploads(server: &Server) {
    let site = Site::new(server);
    tree::file(site.directory("tiny"), "tiny", "tiny");
    tree::generated(site.directory("large"), "large", 160 << 20, 1);
    site.proxy.rule(Rule::every(Kind::Part, Fault::SlowRequest(24 << 20)));
    let taken = assert_memory("up", &[32, 128], |what, limit| {
        let (source, url) = (site.at(what), site.url(&format!("{what}-{limit}")));
        peak_memory(site.run(&["sync", &source, &url, "--max-memory", &format!("{limit}MiB")]))
    });
    assert!(taken >= 64 << 20, "only {taken} of 128 MiB were made use of");
}

fn memory_limit_holds_for_downloads(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("tiny/tiny", b"tiny");
    let large = site.directory("large-up");
    for number in 0..12 {
        tree::generated(&large, format!("f{number}"), 12 << 20, number);
    }
    site.haul(&["sync", &large, &site.url("large")]).done();
    site.proxy.rule(Rule::every(Kind::Get, Fault::SlowResponse(12 << 20)));
    assert_memory("down", &[16, 32], |what, limit| {
        let target = site.at(&format!("{what}-{limit}"));
        let flags = ["--max-memory", &format!("{limit}MiB")];
        peak_memory(site.run(&["sync", &site.url(what), &target]).args(&flags))
    });
    tree::assert_same(&large, site.at("large-32"));
    tree::assert_same(&large, site.at("large-16"));
}

fn bad_limits_are_refused(server: &Server) {
    let site = Site::new(server);
    let up = small_files(&site, 1, 1);
    let bad = [
        ("--bwlimit", "10", "10MB/s"),
        ("--bwlimit", "10MB/s 08:00", "10MB/s"),
        ("--bwlimit", "25:00,1MB/s", "25:00"),
        ("--bwlimit", "", "10MB/s"),
        ("--bwlimit", "0MB/s", "0MB/s"),
        ("--tpslimit", "0", "tpslimit"),
        ("--tpslimit", "many", "many"),
        ("--tpslimit", "inf", "tpslimit"),
        ("--max-memory", "100", "64MiB"),
        ("--jobs", "0", "jobs"),
    ];
    for (flag, value, told) in bad {
        let outcome = site.haul_with(&["sync", &up, &site.url("")], &[flag, value]);
        outcome.exits(&[2]).names(told);
    }
    assert!(site.proxy.passed().is_empty(), "something was sent");
    // Slower than anybody waits for, yet no reason to break down.
    site.haul(&["ls", &site.url(""), "--tpslimit", "1e-19"]).done();
    site.haul(&["ls", &site.url(""), "--tpslimit", "1e-300"]).done();
}
