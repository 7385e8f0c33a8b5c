//! The command line: each flag once, with the text that `--help` shows.

use clap::{Args, Parser, Subcommand};
use haul::MaxDelete;
use std::path::PathBuf;
use std::time::Duration;

/// Bulk sync and transfer between directories and S3 buckets.
///
/// Every object carries the BLAKE3 of its content, every download is verified before it gets its
/// name, and nothing is deleted without proof. Exit codes: 0 done, 1 some transfers failed (or
/// `check` found differences), 2 usage, 3 done but some source entries could not be read or cannot
/// exist at the target, 4 a safety guard refused, 5 another run of the same pair is under way, 6
/// could not start, 129/130/143 stopped.
///
/// Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from --credentials FILE.
#[derive(Debug, Parser)]
#[command(
    name = "haul",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The S3 endpoint, https://HOST[:PORT] [env: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL]
    #[arg(long, global = true, value_name = "URL", env = "HAUL_ENDPOINT_URL", hide_env = true)]
    pub endpoint_url: Option<String>,
    /// The region to sign for; Ceph takes any [env: AWS_REGION]
    #[arg(long, global = true, value_name = "NAME", env = "HAUL_REGION", hide_env = true)]
    pub region: Option<String>,
    /// A JSON file with `access_key`, `secret_key` and perhaps `session_token`, `endpoint`,
    /// `region`, that only you can read
    #[arg(long, global = true, value_name = "FILE", env = "HAUL_CREDENTIALS", hide_env = true)]
    pub credentials: Option<PathBuf>,
    /// A PEM file of certificate authorities to believe, beside the system's [env: AWS_CA_BUNDLE]
    #[arg(long, global = true, value_name = "FILE", env = "HAUL_CA_BUNDLE", hide_env = true)]
    pub ca_bundle: Option<PathBuf>,
    /// Believe any certificate: who is in between can then read and change everything
    #[arg(long, global = true, conflicts_with = "ca_bundle")]
    pub insecure: bool,
    /// Send unsigned requests, for public buckets
    #[arg(long, global = true)]
    pub no_sign_request: bool,
    /// What is signed: the content, too, which the server then checks (0.5 s of CPU a GiB), or only
    /// the head, where TLS vouches for the content
    #[arg(long, global = true, value_name = "HOW", value_enum, default_value_t = PayloadSigning::Signed,
          env = "HAUL_PAYLOAD", hide_env = true)]
    pub payload: PayloadSigning,
    /// Requests in flight at once [default: as many as pay, 16 to 256, fewer where the server is
    /// busy]
    #[arg(short, long, global = true, value_name = "N", env = "HAUL_JOBS", hide_env = true,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// The most bytes a second, sent and received together: 10MB/s, 500KiB/s, or by the time of
    /// day, `08:00,10MB/s 19:00,off`
    #[arg(long, global = true, value_name = "RATE", env = "HAUL_BWLIMIT", hide_env = true,
          value_parser = crate::units::Timetable::parse)]
    pub bwlimit: Option<crate::units::Timetable>,
    /// The most requests a second
    #[arg(long, global = true, value_name = "N", env = "HAUL_TPSLIMIT", hide_env = true,
          value_parser = crate::units::parse_rate)]
    pub tpslimit: Option<f64>,
    /// The most memory that a run's buffers of data may take: 64MiB, 1GB
    #[arg(long, global = true, value_name = "SIZE", env = "HAUL_MAX_MEMORY", hide_env = true,
          default_value = "96MiB", value_parser = crate::units::parse_bytes)]
    pub max_memory: u64,
    /// How long nothing may move before a request counts as hung (5s, 2m)
    #[arg(long, global = true, value_name = "TIME", env = "HAUL_IDLE_TIMEOUT", hide_env = true,
          default_value = "60s", value_parser = parse_duration)]
    pub idle_timeout: Duration,
    /// How often a failed request is repeated
    #[arg(
        long,
        global = true,
        value_name = "N",
        env = "HAUL_RETRIES",
        hide_env = true,
        default_value_t = 8
    )]
    pub retries: u32,
    /// Where to remember what was synced, and past runs [default: $XDG_STATE_HOME/haul, or
    /// ~/.local/state/haul]
    #[arg(long, global = true, value_name = "DIR", env = "HAUL_STATE_DIR", hide_env = true)]
    pub state_dir: Option<PathBuf>,
    /// Print data as JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more: each entry, and why; twice for every request
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Draw progress bars even where stderr is no terminal
    #[arg(long, global = true, overrides_with = "no_progress")]
    pub progress: bool,
    /// Draw no progress bars
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// Whether contents are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PayloadSigning {
    Signed,
    Unsigned,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|e| format!("{e}; write 5s or 2m"))?;
    if duration.is_zero() { Err("it must be longer than nothing".into()) } else { Ok(duration) }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make TARGET match SOURCE; what is only in TARGET stays unless --delete
    #[command(after_help = "Examples:
  haul sync run1 s3://data/run1             mirror a directory
  haul sync --delete run1 s3://data/run1    ... exactly
  haul sync s3://data/run1 run1             restore it
  haul sync --exclude '*' --include '*.nc' run1 s3://data/run1

A pattern without `/` matches at any depth; `*` stops at `/`, `**` does not.")]
    Sync {
        #[command(flatten)]
        ends: Ends,
        #[command(flatten)]
        how: How,
        /// Change nothing, print what would be done
        #[arg(short = 'n', long, alias = "dryrun")]
        dry_run: bool,
    },
    /// Print what sync would do, and change nothing
    Plan {
        #[command(flatten)]
        ends: Ends,
        #[command(flatten)]
        how: How,
    },
    /// Compare SOURCE and TARGET by content; exit 1 where they differ
    ///
    /// With --deep every byte of both sides is read, and what has changed without showing is found:
    /// a file whose times say that it did not, an object that is not what its ETag or its recorded
    /// hash say.
    Check {
        #[command(flatten)]
        ends: Ends,
        #[command(flatten)]
        how: Compare,
        /// Read every byte of both sides
        #[arg(long, conflicts_with = "size_only")]
        deep: bool,
    },
    /// Write the BLAKE3 of each file below PATH or URL, as `b3sum --check` reads it
    ///
    /// What is remembered or recorded is not read again. Names are relative to PATH or URL.
    Manifest {
        /// A directory, or s3://BUCKET[/PREFIX]
        place: String,
        /// Trust nothing that is remembered or recorded: read every byte
        #[arg(short = 'c', long)]
        checksum: bool,
    },
    /// Show past runs: when, what, how much, and how they ended
    History {
        /// The last so many runs
        #[arg(short = 'l', long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Copy a file or object, or with -r a directory or prefix; `-` is stdin or stdout
    ///
    /// A TARGET that ends in `/`, is a directory or a whole bucket keeps the name of SOURCE.
    Cp {
        #[command(flatten)]
        copy: Copy,
    },
    /// Move: as cp, then remove the source once the copy is safe
    Mv {
        #[command(flatten)]
        copy: Copy,
    },
    /// Write objects to stdout
    Cat {
        /// s3://BUCKET/KEY
        #[arg(required = true, value_name = "URL")]
        urls: Vec<String>,
    },
    /// List buckets, or what is in a bucket or below a prefix
    Ls {
        /// s3://BUCKET[/PREFIX]; none lists the buckets
        #[arg(value_name = "URL")]
        url: Option<String>,
        /// Everything below, not only the first level
        #[arg(short, long)]
        recursive: bool,
        /// Size and time, too
        #[arg(short, long)]
        long: bool,
    },
    /// Count the objects and bytes below a prefix
    Du {
        /// s3://BUCKET[/PREFIX]
        #[arg(value_name = "URL")]
        url: String,
    },
    /// Show what is known of an object: size, ETag, hash, metadata
    Stat {
        /// s3://BUCKET/KEY
        #[arg(value_name = "URL")]
        url: String,
    },
    /// Delete an object, or with -r everything below a prefix
    Rm {
        /// s3://BUCKET/KEY
        #[arg(value_name = "URL")]
        url: String,
        /// Everything below
        #[arg(short, long)]
        recursive: bool,
        /// Delete nothing, print what would go
        #[arg(short = 'n', long, alias = "dryrun")]
        dry_run: bool,
    },
    /// Multipart uploads that were begun and not completed: what they have sent takes room
    #[command(after_help = "Examples:
  haul uploads ls s3://data
  haul uploads abort --older-than 7d s3://data

haul's own are gone on with by the next run of the same command, and need no care.")]
    Uploads {
        #[command(subcommand)]
        what: Uploads,
    },
    /// Make a bucket
    Mb {
        /// s3://BUCKET
        #[arg(value_name = "URL")]
        url: String,
    },
    /// Remove an empty bucket
    Rb {
        /// s3://BUCKET
        #[arg(value_name = "URL")]
        url: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Uploads {
    /// List them, with when they were begun and their ids
    Ls {
        /// s3://BUCKET[/KEY or /PREFIX]
        #[arg(value_name = "URL")]
        url: String,
    },
    /// Abort them, whoever has begun them; their parts are removed
    Abort {
        /// s3://BUCKET[/KEY or /PREFIX]
        #[arg(value_name = "URL")]
        url: String,
        /// Only those that were begun so long ago: 7d, 12h
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        older_than: Option<Duration>,
        /// Abort nothing, print what would be
        #[arg(short = 'n', long, alias = "dryrun")]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub struct Ends {
    /// A directory, or s3://BUCKET[/PREFIX]
    pub source: String,
    /// A directory, or s3://BUCKET[/PREFIX]
    pub target: String,
}

/// What is compared, and how.
#[derive(Clone, Debug, Args)]
pub struct Compare {
    /// Leave out what matches; of several patterns the last that matches decides
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Take what matches after all
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Compare sizes only
    #[arg(long)]
    pub size_only: bool,
    /// Trust nothing that is remembered: read every file whose size agrees
    #[arg(short = 'c', long, conflicts_with = "size_only")]
    pub checksum: bool,
}

/// How sync changes the target.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Clone, Debug, Args)]
pub struct How {
    #[command(flatten)]
    pub compare: Compare,
    /// Delete what is only in TARGET, after everything else
    #[arg(long)]
    pub delete: bool,
    /// Refuse to delete more than so many, or so many percent [default: 50% or 1,000]
    #[arg(long, value_name = "N|N%")]
    pub max_delete: Option<MaxDelete>,
    /// Let an empty SOURCE empty TARGET
    #[arg(long)]
    pub force_empty: bool,
    /// Delete even though some transfers failed
    #[arg(long)]
    pub ignore_errors: bool,
    /// Delete excluded entries in TARGET, too
    #[arg(long)]
    pub delete_excluded: bool,
    /// Write a file's new mtime and mode to its object even where its content is the same; the
    /// server copies the object onto itself
    #[arg(long)]
    pub update_metadata: bool,
}

#[derive(Debug, Args)]
pub struct Copy {
    /// A file, a directory, s3://BUCKET/KEY, or -
    pub source: String,
    /// A file, a directory, s3://BUCKET/KEY, or -
    pub target: String,
    /// Everything below SOURCE
    #[arg(short, long)]
    pub recursive: bool,
}
