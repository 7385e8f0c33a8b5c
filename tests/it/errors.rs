//! What cannot start says so in one clear line, soon, and never prints a secret.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use crate::support::run::{Outcome, Run};
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    missing_keys_are_one_clear_line,
    wrong_secret_is_one_clear_line,
    wrong_access_key_is_one_clear_line,
    unsigned_request_to_a_private_bucket_is_one_clear_line,
    missing_bucket_is_named,
    unreachable_endpoint_is_named,
    skewed_clock_is_explained,
    key_file_is_read,
    key_file_that_others_can_read_is_refused,
    key_file_that_is_not_json_is_named,
    secret_in_a_url_is_refused_and_not_repeated,
    secret_stays_out_of_the_most_talkative_run,
    environment_names_the_endpoint,
    local_to_local_is_refused_with_a_hint,
    bad_usage_exits_2,
}

/// A site with a file to send, so that every run has work.
fn site_with_file(server: &Server) -> (Site, String) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    (site, up)
}

/// Runs a sync that cannot start: exit 6 within half a minute.
#[track_caller]
fn refused(site: &Site, run: Run, up: &str) -> Outcome {
    let outcome = run.args(&["sync", up, &site.url("")]).finish().exits(&[6]);
    assert!(outcome.took < Duration::from_secs(30), "took {:?}", outcome.took);
    site.bucket.assert_keys(&[]);
    outcome
}

fn without_keys(site: &Site) -> Run {
    Run::bare(&site.at("")).env("AWS_ENDPOINT_URL", &site.proxy.url())
}

fn missing_keys_are_one_clear_line(server: &Server) {
    let (site, up) = site_with_file(server);
    refused(&site, without_keys(&site), &up).explains("AWS_ACCESS_KEY_ID");
    assert!(site.proxy.passed().is_empty(), "something was asked without keys");
}

fn wrong_secret_is_one_clear_line(server: &Server) {
    let (site, up) = site_with_file(server);
    let run = without_keys(&site).keys(&server.access_key, "no-such-secret-key-0123456789");
    refused(&site, run, &up).explains("key");
}

fn wrong_access_key_is_one_clear_line(server: &Server) {
    let (site, up) = site_with_file(server);
    let run = without_keys(&site).keys("nosuchaccesskey", &server.secret_key);
    refused(&site, run, &up).explains("key");
}

fn unsigned_request_to_a_private_bucket_is_one_clear_line(server: &Server) {
    let (site, up) = site_with_file(server);
    let run = without_keys(&site).args(&["--no-sign-request"]);
    refused(&site, run, &up).explains(&site.bucket.name);
}

fn missing_bucket_is_named(server: &Server) {
    let (site, up) = site_with_file(server);
    for args in
        [["sync", &up, "s3://haul-no-such-bucket"], ["sync", "s3://haul-no-such-bucket", &up]]
    {
        let outcome = site.haul(&args).exits(&[6]).explains("haul-no-such-bucket");
        assert!(outcome.took < Duration::from_secs(30), "took {:?}", outcome.took);
    }
}

fn unreachable_endpoint_is_named(server: &Server) {
    let (site, up) = site_with_file(server);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let endpoint = format!("http://{closed}");
    let run = site.run(&["--endpoint-url", &endpoint]);
    refused(&site, run, &up).explains(&closed);
}

fn skewed_clock_is_explained(server: &Server) {
    let (site, up) = site_with_file(server);
    for kind in [Kind::List, Kind::Head, Kind::Put, Kind::Other] {
        site.proxy.rule(Rule::every(kind, Fault::Answer(403, "RequestTimeTooSkewed")));
    }
    refused(&site, site.run(&[]), &up).explains("clock");
}

/// A key file of this mode.
fn key_file(site: &Site, server: &Server, mode: u32) -> String {
    let keys = serde_json::json!({
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "endpoint_url": site.proxy.url(),
    });
    let path = site.at("keys.json");
    fs::write(&path, keys.to_string()).unwrap();
    tree::chmod(&path, mode);
    path
}

fn key_file_is_read(server: &Server) {
    let (site, up) = site_with_file(server);
    let path = key_file(&site, server, 0o600);
    let run = Run::bare(&site.at("")).keep_secret(&server.secret_key);
    run.args(&["--credentials", &path, "sync", &up, &site.url("")]).finish().done();
    assert_eq!(site.bucket.get("a"), b"a");
}

fn key_file_that_others_can_read_is_refused(server: &Server) {
    let (site, up) = site_with_file(server);
    for mode in [0o644, 0o640, 0o604] {
        let path = key_file(&site, server, mode);
        let run = Run::bare(&site.at("")).keep_secret(&server.secret_key);
        let args = ["sync", &up, &site.url(""), "--credentials", &path];
        run.args(&args).finish().exits(&[2, 6]).explains("keys.json");
        site.bucket.assert_keys(&[]);
    }
}

fn key_file_that_is_not_json_is_named(server: &Server) {
    let (site, up) = site_with_file(server);
    let path = key_file(&site, server, 0o600);
    let broken = format!("{{\"access_key\": \"x\", \"secret_key\": \"{}\", ", server.secret_key);
    for content in [broken.as_str(), "{}", ""] {
        fs::write(&path, content).unwrap();
        let run = Run::bare(&site.at("")).keep_secret(&server.secret_key);
        let run = run.env("AWS_ENDPOINT_URL", &site.proxy.url());
        let args = ["sync", &up, &site.url(""), "--credentials", &path];
        run.args(&args).finish().exits(&[2, 6]).explains("keys.json");
    }
    let run = without_keys(&site).args(&["--credentials", &site.at("absent.json")]);
    run.args(&["sync", &up, &site.url("")]).finish().exits(&[2, 6]).explains("absent.json");
}

fn secret_in_a_url_is_refused_and_not_repeated(server: &Server) {
    let (site, up) = site_with_file(server);
    let name = &site.bucket.name;
    let url = format!("s3://{}:{}@{name}", server.access_key, server.secret_key);
    site.haul(&["sync", &up, &url]).exits(&[2]);
    let host = site.proxy.url().replace("http://", "");
    let endpoint = format!("http://{}:{}@{host}", server.access_key, server.secret_key);
    site.haul(&["sync", &up, &site.url(""), "--endpoint-url", &endpoint]).exits(&[2]);
    site.bucket.assert_keys(&[]);
}

/// `Outcome` fails wherever the secret is printed: here with every log line that there is.
fn secret_stays_out_of_the_most_talkative_run(server: &Server) {
    let (site, up) = site_with_file(server);
    site.run(&["-vvv", "sync", &up, &site.url("")]).finish().done();
    let token = "a-session-token-nobody-may-see";
    let run = site.run(&["-vvv", "sync", &up, &site.url("")]).env("AWS_SESSION_TOKEN", token);
    let outcome = run.keep_secret(token).finish().exits(&[0, 1, 6]);
    assert!(outcome.output().contains("request"), "no request was logged");
}

fn environment_names_the_endpoint(server: &Server) {
    let (site, up) = site_with_file(server);
    let run = Run::bare(&site.at("")).keys(&server.access_key, &server.secret_key);
    let run = run.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let run = run.env("AWS_ENDPOINT_URL_S3", &site.proxy.url());
    run.args(&["sync", &up, &site.url("")]).finish().done();
    assert_eq!(site.bucket.get("a"), b"a");
    site.bucket.delete("a");
    let run = site.run(&["sync", &up, &site.url(""), "--endpoint-url", &site.proxy.url()]);
    run.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").finish().done();
    assert_eq!(site.bucket.get("a"), b"a");
}

fn local_to_local_is_refused_with_a_hint(server: &Server) {
    let (site, up) = site_with_file(server);
    let down = site.directory("down");
    site.haul(&["sync", &up, &down]).exits(&[2]).explains("rsync");
    assert!(tree::read(&down).is_empty());
}

fn bad_usage_exits_2(server: &Server) {
    let (site, up) = site_with_file(server);
    let url = site.url("");
    let bad: &[&[&str]] = &[
        &[],
        &["sync"],
        &["sync", &up],
        &["sync", &up, &url, "--no-such-flag"],
        &["sync", &up, &url, "--max-delete", "many"],
        &["sync", &up, &url, "--max-delete", "101%"],
        &["sync", &up, &url, "--exclude", "["],
        &["sync", &up, &url, "-j", "0"],
        &["sync", &up, "s3://"],
        &["sync", &up, "ftp://host/path"],
        &["no-such-command"],
    ];
    for args in bad {
        site.haul(args).exits(&[2]);
    }
    site.bucket.assert_keys(&[]);
}
