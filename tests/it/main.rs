//! The integration tests: the `haul` binary against real servers, judged by an independent client.
//!
//! `make test` starts the servers and sets what `support::server` reads. Run alone, every test that
//! needs a server fails; none is skipped quietly.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

/// Makes a test of each function, once on every server: `theme::rgw::name` and
/// `theme::seaweed::name`.
macro_rules! on_both_servers {
    ($($name:ident),+ $(,)?) => {
        mod rgw {
            $(
                #[test]
                fn $name() {
                    if let Some(server) = $crate::support::server::rgw() {
                        super::$name(&server);
                    }
                }
            )+
        }
        mod seaweed {
            $(
                #[test]
                fn $name() {
                    super::$name(&$crate::support::server::seaweed());
                }
            )+
        }
    };
}

mod adoption;
mod catalog;
mod commands;
mod compare;
mod copies;
mod deep;
mod deletes;
mod delta;
mod errors;
mod faults;
mod history;
mod interrupt;
mod layers;
mod library;
mod listing;
mod many;
mod metadata;
mod model;
mod names;
mod order;
mod pace;
mod plan;
mod ranges;
mod renames;
mod resume;
mod round_trip;
mod state;
mod support;
mod tls;
mod tools;
mod uploads;
