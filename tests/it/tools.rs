//! The proxy and the independent client do what the other tests rely on them to do. No `haul` in
//! here.

use crate::support::oracle::{Bucket, etag_of};
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    proxy_passes_requests_through_and_counts_them,
    proxy_answers_in_the_servers_place,
    proxy_flips_one_bit_of_a_body,
    oracle_sees_parts_uploads_and_metadata,
}

/// The site's bucket as the oracle sees it through the proxy.
fn through_proxy(site: &Site) -> Bucket {
    let server = Server { endpoint: site.proxy.url(), ..site.server.clone() };
    Bucket::named(&server, &site.bucket.name)
}

fn proxy_passes_requests_through_and_counts_them(server: &Server) {
    let site = Site::new(server);
    let proxied = through_proxy(&site);
    let body = tree::noise(300_000, 1);
    proxied.put("a/key with + and %", &body);
    assert_eq!(proxied.get("a/key with + and %"), body);
    proxied.assert_keys(&["a/key with + and %"]);
    assert_eq!(site.bucket.get("a/key with + and %"), body);
    assert_eq!(site.proxy.count(Kind::Put), 1);
    assert_eq!(site.proxy.count(Kind::Get), 1);
    assert_eq!(site.proxy.count(Kind::List), 1);
    let passed = site.proxy.passed();
    let target = &passed[0].target;
    assert!(target.ends_with("/a/key%20with%20%2B%20and%20%25"), "{target}");
    assert_eq!(passed[0].body_bytes, 300_000);
    assert_eq!(passed[1].response_bytes, 300_000);
}

fn proxy_answers_in_the_servers_place(server: &Server) {
    let site = Site::new(server);
    let proxied = through_proxy(&site);
    site.proxy.rule(Rule::every(Kind::Put, Fault::Answer(503, "SlowDown")).on("/slow").times(1));
    proxied.put("slow", b"retried");
    assert_eq!(site.bucket.get("slow"), b"retried");
    let statuses: Vec<u16> = site.proxy.passed().iter().map(|passed| passed.status).collect();
    assert_eq!(statuses, [503, 200]);
}

fn proxy_flips_one_bit_of_a_body(server: &Server) {
    let site = Site::new(server);
    let proxied = through_proxy(&site);
    site.bucket.put("key", b"0123456789");
    site.proxy.rule(Rule::every(Kind::Get, Fault::FlipResponse(3)).times(1));
    assert_eq!(proxied.get("key"), b"0122456789");
    assert_eq!(proxied.get("key"), b"0123456789");
}

fn oracle_sees_parts_uploads_and_metadata(server: &Server) {
    let site = Site::new(server);
    tree::generated(site.at("tree"), "large", 12 << 20, 5);
    let path = std::path::PathBuf::from(site.at("tree/large"));
    site.bucket.put_multipart("large", &path, 5 << 20);
    site.bucket.begin_multipart("open");
    assert_eq!(site.bucket.uploads(), ["open"]);
    let head = site.bucket.head("large").expect("an object");
    assert_eq!(head.size, 12 << 20);
    assert_eq!(head.etag, etag_of(&path, Some(5 << 20)));
    assert_eq!(site.bucket.hash("large"), tree::hash(&path));
    site.bucket.delete("large");
    assert_eq!(site.bucket.head("large"), None);
}
