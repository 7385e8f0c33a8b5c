//! What the tests share: servers, the independent client, the fault proxy, trees, and running
//! `haul` itself.

pub mod http;
pub mod oracle;
pub mod peer;
pub mod proxy;
pub mod run;
pub mod server;
pub mod site;
pub mod tls;
pub mod tokens;
pub mod tree;
pub mod watch;

pub use http::Kind;
pub use peer::Peer;
pub use proxy::{Fault, Rule};
pub use server::Server;
pub use site::Site;
pub use watch::Watch;
