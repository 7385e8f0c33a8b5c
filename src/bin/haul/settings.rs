//! What flags and environment say, made into what the library takes. The environment is read here
//! and nowhere else.

use crate::args::{Compare, Global, How, PayloadSigning};
use crate::ui::note;
use crate::units::Timetable;
use clap::ArgMatches;
use haul::{
    Allowed, CompareBy, Concurrency, Connection, Credentials, Endpoint, Error, ErrorKind, Filter,
    FilterBuilder, KeyFile, Location, Place, Result, Signing, Trust,
};
use std::path::PathBuf;

/// Connects with the endpoint and keys of, in this order: flags, environment, key file.
pub fn connect(global: &Global) -> Result<Endpoint> {
    let file = global.credentials.as_deref().map(KeyFile::read).transpose()?;
    let credentials = match &file {
        _ if global.no_sign_request => Credentials::anonymous(),
        Some(file) => file.credentials()?,
        None => from_environment()?,
    };
    let from_file =
        |get: fn(&KeyFile) -> Option<&str>| file.as_ref().and_then(get).map(str::to_owned);
    let endpoint = global
        .endpoint_url
        .clone()
        .or_else(|| variable("AWS_ENDPOINT_URL_S3"))
        .or_else(|| variable("AWS_ENDPOINT_URL"))
        .or_else(|| from_file(KeyFile::endpoint));
    let region = global
        .region
        .clone()
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .or_else(|| from_file(KeyFile::region));
    let mut connection = Connection::new(endpoint, credentials);
    if let Some(region) = region {
        connection.region = region;
    }
    if let Some(jobs) = global.jobs {
        connection.requests = Concurrency::Fixed(jobs.into());
    }
    connection.signing = match global.payload {
        PayloadSigning::Signed => Signing::Payload,
        PayloadSigning::Unsigned => Signing::Head,
    };
    connection.requests_per_second = global.tpslimit;
    connection.bandwidth = global.bwlimit.clone().map(Timetable::into_bandwidth);
    connection.idle_timeout = global.idle_timeout;
    connection.retries = global.retries;
    connection.trust = match (global.insecure, ca_bundle(global)) {
        (true, _) => {
            note("haul: --insecure: certificates are not checked; who is in between can read all");
            Trust::Anybody
        }
        (false, Some(path)) => Trust::Bundle(path),
        (false, None) => Trust::System,
    };
    Endpoint::connect(&connection)
}

fn ca_bundle(global: &Global) -> Option<PathBuf> {
    global.ca_bundle.clone().or_else(|| variable("AWS_CA_BUNDLE").map(PathBuf::from))
}

fn from_environment() -> Result<Credentials> {
    let (access, secret) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
    let missing = match (&access, &secret) {
        (Some(access), Some(secret)) => {
            let token = variable("AWS_SESSION_TOKEN");
            return Credentials::new(access, secret, token.as_deref());
        }
        (None, Some(_)) => "AWS_ACCESS_KEY_ID is not set",
        (Some(_), None) => "AWS_SECRET_ACCESS_KEY is not set",
        (None, None) => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set",
    };
    let cause = format!("{missing}; set them, give --credentials FILE, or --no-sign-request");
    Err(Error::new(ErrorKind::Setup, "no credentials", cause))
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The place that `text` names.
pub fn place(text: &str, global: &Global, endpoint: &mut Option<Endpoint>) -> Result<Place> {
    match Location::parse(text)? {
        Location::Local(path) => Ok(Place::Directory(path)),
        Location::Bucket { bucket, path } => {
            let endpoint = connected(global, endpoint)?;
            Ok(Place::bucket(endpoint.bucket(&bucket), &path))
        }
    }
}

/// The one endpoint of a command, connected when it is first needed.
pub fn connected<'a>(global: &Global, endpoint: &'a mut Option<Endpoint>) -> Result<&'a Endpoint> {
    if endpoint.is_none() {
        *endpoint = Some(connect(global)?);
    }
    Ok(endpoint.as_ref().expect("it was just set"))
}

/// The bucket and the path in it that `text` names.
pub fn object(text: &str) -> Result<(String, String)> {
    match Location::parse(text)? {
        Location::Bucket { bucket, path } => Ok((bucket, path)),
        Location::Local(_) => {
            Err(Error::new(ErrorKind::Usage, format!("bad URL `{text}`"), "give s3://BUCKET[/KEY]"))
        }
    }
}

/// The name of the bucket that `text` names, which must name nothing in it.
pub fn bucket_only(text: &str) -> Result<String> {
    match object(text)? {
        (bucket, path) if path.is_empty() => Ok(bucket),
        _ => {
            Err(Error::new(ErrorKind::Usage, format!("bad URL `{text}`"), "give s3://BUCKET alone"))
        }
    }
}

/// The filter, its patterns in the order of the command line.
pub fn filter(compare: &Compare, matches: &ArgMatches) -> Result<Filter> {
    let indexed = |name: &str, patterns: &[String], exclude: bool| {
        let places = matches.indices_of(name).into_iter().flatten();
        places
            .zip(patterns.to_vec())
            .map(move |(at, pattern)| (at, pattern, exclude))
            .collect::<Vec<_>>()
    };
    let mut all = indexed("exclude", &compare.exclude, true);
    all.extend(indexed("include", &compare.include, false));
    all.sort_by_key(|(at, ..)| *at);
    let add = |builder: FilterBuilder, (_, pattern, exclude): (usize, String, bool)| match exclude {
        true => builder.exclude(pattern),
        false => builder.include(pattern),
    };
    all.into_iter().fold(FilterBuilder::default(), add).build()
}

/// What counts as the same.
pub fn compare_by(compare: &Compare) -> CompareBy {
    match (compare.size_only, compare.checksum) {
        (true, _) => CompareBy::Size,
        (false, true) => CompareBy::Anew,
        (false, false) => CompareBy::Content,
    }
}

/// Where runs are remembered: as the XDG base directory specification has it, unless told
/// otherwise. None where there is no home.
pub fn state_directory(global: &Global) -> Option<PathBuf> {
    let xdg = || variable("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    global.state_dir.clone().or_else(|| xdg().or_else(home).map(|state| state.join("haul")))
}

/// What deletes are allowed.
pub fn allowed(how: &How) -> Allowed {
    Allowed {
        max_delete: how.max_delete.unwrap_or_default(),
        force_empty: how.force_empty,
        ignore_errors: how.ignore_errors,
    }
}
