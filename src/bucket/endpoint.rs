//! An S3 service: how it is reached, its buckets, and what is not about one of them.

use super::door::{Door, Request};
use super::pace::Concurrency;
use super::s3::{S3Bucket, Service};
use super::throttle::Bandwidth;
use super::xml::{self, BucketInfo};
use super::{Bucket, Credentials, Payload, Signing, Traffic};
use crate::error::{Error, ErrorKind, Result};
use http::Method;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How to reach an S3 service.
#[derive(Clone, Debug)]
pub struct Connection {
    /// `https://host[:port]`; none for AWS.
    pub endpoint: Option<String>,
    /// The region to sign for; Ceph takes any.
    pub region: String,
    /// The keys.
    pub credentials: Credentials,
    /// What signatures cover.
    pub signing: Signing,
    /// Requests in flight at once.
    pub requests: Concurrency,
    /// The most requests a second; none for as many as go.
    pub requests_per_second: Option<f64>,
    /// The most bytes a second, bodies in both directions together; none for as many as go.
    pub bandwidth: Option<Bandwidth>,
    /// How long nothing may move before a request counts as hung.
    pub idle_timeout: Duration,
    /// How often a failed request is repeated.
    pub retries: u32,
    /// Whose certificates are believed.
    pub trust: Trust,
}

/// Whose TLS certificates are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of the authorities that the system knows.
    #[default]
    System,
    /// Those of the authorities in this PEM file, too.
    Bundle(PathBuf),
    /// Anybody's: who is in between can read and change everything.
    Anybody,
}

impl Connection {
    /// A connection with the default limits: as many requests in flight as pay, 60 s idle, 8
    /// retries (about half a minute of pauses in all).
    #[must_use]
    pub fn new(endpoint: Option<String>, credentials: Credentials) -> Self {
        Self {
            endpoint,
            region: "us-east-1".to_owned(),
            credentials,
            signing: Signing::Payload,
            requests: Concurrency::Adaptive,
            requests_per_second: None,
            bandwidth: None,
            idle_timeout: Duration::from_mins(1),
            retries: 8,
            trust: Trust::System,
        }
    }
}

/// An S3 service: what is not about one bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint {
    shared: Arc<Service>,
}

impl Endpoint {
    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// `Usage` for an endpoint that is no `http` or `https` URL, or payloads that neither a signature
    /// nor TLS would vouch for.
    pub fn connect(connection: &Connection) -> Result<Self> {
        let endpoint = connection.endpoint.as_deref().map(check_endpoint).transpose()?;
        if connection.signing == Signing::Head && endpoint.as_deref().is_some_and(is_open_to_all) {
            let cause = "without TLS only the signature vouches for the content; use https://";
            return Err(Error::new(ErrorKind::Usage, "cannot leave payloads unsigned", cause));
        }
        if connection.signing == Signing::Head && connection.trust == Trust::Anybody {
            let cause =
                "who does not check certificates has only the signature to vouch for the content";
            return Err(Error::new(ErrorKind::Usage, "cannot leave payloads unsigned", cause));
        }
        let region = connection.region.clone();
        let door = Door::new(connection)?;
        Ok(Self { shared: Arc::new(Service { door, endpoint, region }) })
    }

    /// The bucket called `name`; nothing is sent.
    #[must_use]
    pub fn bucket(&self, name: &str) -> Arc<S3Bucket> {
        let base = self.shared.bucket_url(name);
        Arc::new(S3Bucket::new(Arc::clone(&self.shared), name.to_owned(), base))
    }

    /// All buckets of the account.
    ///
    /// # Errors
    /// As every request ([`Bucket`]).
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>> {
        let url = format!("{}/", self.shared.service_url());
        let shown = self.shared.service_url();
        let request = Request::new(Method::GET, url, &shown);
        let answer = self.shared.door.ask(&request).await?;
        xml::parse_buckets(&answer).map_err(|e| {
            Error::new(ErrorKind::Protocol, format!("cannot list buckets of {shown}"), e)
        })
    }

    /// Makes a bucket. One that is the account's own already is fine on Ceph.
    ///
    /// # Errors
    /// `Denied` where the name is taken.
    pub async fn create_bucket(&self, name: &str) -> Result<()> {
        let bucket = self.bucket(name);
        let shown = bucket.url();
        let mut request = Request::new(Method::PUT, bucket.base().to_owned(), &shown);
        if self.shared.endpoint.is_none() && self.shared.region != "us-east-1" {
            let region = &self.shared.region;
            let body = format!(
                "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint>\
                 </CreateBucketConfiguration>"
            );
            request = request.payload(Payload::new(body.into()));
        }
        self.shared.door.send(&request).await.map(drop)
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// `Denied` where it is not empty.
    pub async fn delete_bucket(&self, name: &str) -> Result<()> {
        let bucket = self.bucket(name);
        let shown = bucket.url();
        let request = Request::new(Method::DELETE, bucket.base().to_owned(), &shown);
        self.shared.door.send(&request).await.map(drop)
    }

    /// What went over the wire so far.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        self.shared.door.traffic()
    }
}

/// True for an endpoint without TLS that is not on this machine.
fn is_open_to_all(endpoint: &str) -> bool {
    let Ok(url) = url::Url::parse(endpoint) else { return true };
    let is_here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() != "https" && !is_here
}

fn check_endpoint(text: &str) -> Result<String> {
    if text.contains('@') {
        let cause = "no key or secret may stand in a URL";
        return Err(Error::new(ErrorKind::Usage, "bad endpoint", cause));
    }
    let bad = |cause: String| Error::new(ErrorKind::Usage, format!("bad endpoint `{text}`"), cause);
    if !text.contains("://") {
        return Err(bad(format!("write https:// or http:// before it: https://{text}")));
    }
    let url = url::Url::parse(text).map_err(|e| bad(format!("{e}; use https://HOST[:PORT]")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad("use https://HOST[:PORT]".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let cause = "no key or secret may stand in a URL";
        return Err(Error::new(ErrorKind::Usage, "bad endpoint", cause));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it has a query; use https://HOST[:PORT]".into()));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint> {
        Endpoint::connect(&Connection::new(Some(url.into()), Credentials::anonymous()))
    }

    #[test]
    fn bad_endpoints_are_named_and_secrets_are_not() {
        for url in ["s3.example.org", "ftp://x", "http://", "https://h/?x=1"] {
            let error = endpoint(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
        }
        let error = endpoint("https://AK:hush@host").unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn unsigned_payloads_need_tls() {
        let unsigned = |url: &str| {
            let mut connection = Connection::new(Some(url.into()), Credentials::anonymous());
            connection.signing = Signing::Head;
            Endpoint::connect(&connection).map(drop).map_err(|error| error.kind())
        };
        assert_eq!(unsigned("http://s3.example.org"), Err(ErrorKind::Usage));
        assert_eq!(unsigned("https://s3.example.org"), Ok(()));
        assert_eq!(unsigned("http://127.0.0.1:9000"), Ok(()));
    }

    #[test]
    fn aws_is_virtual_hosted_unless_dots_forbid_it() {
        let aws = Endpoint::connect(&Connection::new(None, Credentials::anonymous())).unwrap();
        assert_eq!(aws.shared.bucket_url("data"), "https://data.s3.us-east-1.amazonaws.com");
        assert_eq!(aws.shared.bucket_url("my.data"), "https://s3.us-east-1.amazonaws.com/my.data");
    }
}
