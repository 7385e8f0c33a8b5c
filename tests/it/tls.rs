//! TLS: whose certificate is believed, and what is said where it is not.

use crate::support::run::Outcome;
use crate::support::tls::TlsFront;
use crate::support::{Server, Site, tree};

on_both_servers! {
    certificate_of_an_unknown_authority_is_refused,
    authority_in_a_bundle_is_believed,
    certificate_for_another_name_is_refused,
    insecure_runs_warn,
    bundle_that_is_none_is_named,
}

const LARGE: u64 = 40 << 20;

#[track_caller]
fn haul(site: &Site, front: &TlsFront, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let run = site.run(args).env("AWS_ENDPOINT_URL", &front.url());
    variables.iter().fold(run, |run, (name, value)| run.env(name, value)).finish()
}

fn certificate_of_an_unknown_authority_is_refused(server: &Server) {
    let (site, front) = (Site::new(server), TlsFront::start(server, "127.0.0.1"));
    let refused = haul(&site, &front, &["ls", &site.url("")], &[]).exits(&[6]);
    refused.explains("--ca-bundle").names("127.0.0.1");
}

fn authority_in_a_bundle_is_believed(server: &Server) {
    let (site, front) = (Site::new(server), TlsFront::start(server, "127.0.0.1"));
    let (up, down) = (site.directory("up"), site.directory("down"));
    tree::generated(&up, "large", LARGE, 1);
    tree::file(&up, "small", "small");
    let bundle = front.bundle().display().to_string();
    let flags = ["--ca-bundle", &bundle];
    haul(&site, &front, &[&["sync", &up, &site.url("")], &flags[..]].concat(), &[]).done();
    site.assert_holds(&up, "");
    let by_name = [("AWS_CA_BUNDLE", bundle.as_str())];
    haul(&site, &front, &["sync", &site.url(""), &down], &by_name).done();
    tree::assert_same(&up, &down);
    let other = site.at("other");
    let unsigned = ["sync", &up, &site.url("other"), "--payload", "unsigned"];
    haul(&site, &front, &unsigned, &by_name).done();
    haul(&site, &front, &["sync", &site.url("other"), &other], &by_name).done();
    tree::assert_same(&up, &other);
}

fn certificate_for_another_name_is_refused(server: &Server) {
    let (site, front) = (Site::new(server), TlsFront::start(server, "s3.example.org"));
    let bundle = front.bundle().display().to_string();
    let args = ["ls", &site.url(""), "--ca-bundle", &bundle];
    haul(&site, &front, &args, &[]).exits(&[6]).explains("certificate");
}

fn insecure_runs_warn(server: &Server) {
    let (site, front) = (Site::new(server), TlsFront::start(server, "s3.example.org"));
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    let insecure = ["sync", &up, &site.url(""), "--insecure"];
    let outcome = haul(&site, &front, &insecure, &[]).done();
    assert!(outcome.stderr.contains("not checked"), "{}", outcome.stderr);
    site.assert_holds(&up, "");
    // Then only the signature vouches for what is sent.
    let unsigned = [&insecure[..], &["--payload", "unsigned"]].concat();
    haul(&site, &front, &unsigned, &[]).exits(&[2]);
}

fn bundle_that_is_none_is_named(server: &Server) {
    let (site, front) = (Site::new(server), TlsFront::start(server, "127.0.0.1"));
    let (empty, missing) = (site.at("empty.pem"), site.at("missing.pem"));
    tree::file(site.at(""), "empty.pem", "no certificate");
    for bundle in [empty, missing] {
        let args = ["ls", &site.url(""), "--ca-bundle", &bundle];
        haul(&site, &front, &args, &[]).exits(&[6]).names(&bundle);
    }
}
