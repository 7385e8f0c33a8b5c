//! The servers under test, as the environment names them. Starting them is the work of `make test`.

use std::env;
use std::io::{self, Write};
use std::sync::Once;

/// Past the capture of the test harness, once a run.
static SAID_ALOUD: Once = Once::new();

/// An S3 endpoint and the keys to it.
#[derive(Clone, Debug)]
pub struct Server {
    pub kind: Kind,
    pub endpoint: String,
    pub access_key: String,
    pub secret_key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rgw,
    Seaweed,
}

impl Server {
    fn new(kind: Kind, endpoint: String) -> Self {
        Self {
            kind,
            endpoint,
            access_key: required("HAUL_TEST_ACCESS_KEY"),
            secret_key: required("HAUL_TEST_SECRET_KEY"),
        }
    }

    /// Whether keys are stored as they are: `SeaweedFS` folds `\`, `//` and a leading `/`.
    pub fn stores_any_key(&self) -> bool {
        self.kind == Kind::Rgw
    }

    /// Whether HEAD tells the checksum that an object was sent with: Ceph 16 knows none.
    pub fn keeps_checksums(&self) -> bool {
        self.kind == Kind::Seaweed
    }

    /// The host and port, for a proxy to connect to.
    pub fn address(&self) -> &str {
        self.endpoint
            .strip_prefix("http://")
            .expect("test servers speak plain HTTP")
            .trim_end_matches('/')
    }
}

/// The variable's value.
///
/// # Panics
/// Where it is unset: the tests never pass for want of a server.
pub fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

/// The Ceph RADOS Gateway, or nothing where the run said aloud that it goes without.
pub fn rgw() -> Option<Server> {
    if env::var("HAUL_TEST_WITHOUT_RGW").is_ok_and(|value| value == "1") {
        SAID_ALOUD.call_once(|| {
            let _ = writeln!(io::stderr(), "NOT TESTED ON CEPH RGW: HAUL_TEST_WITHOUT_RGW IS SET");
        });
        return None;
    }
    Some(Server::new(Kind::Rgw, required("HAUL_TEST_RGW")))
}

pub fn seaweed() -> Server {
    Server::new(Kind::Seaweed, required("HAUL_TEST_SEAWEED"))
}
