//! Other tools that mirror a directory into a bucket, from the same venv as the oracle's Python.

use std::path::Path;
use std::process::Command;

use super::server::required;
use super::site::Site;

/// A tool whose mirrors are adopted.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    Aws,
    Rclone,
    S3cmd,
    S5cmd,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Rclone => "rclone",
            Self::S3cmd => "s3cmd",
            Self::S5cmd => "s5cmd",
        }
    }

    /// Mirrors the directory `root` to a prefix of the site's bucket, through its proxy.
    ///
    /// The proxy answers `Expect: 100-continue` itself: without it, aws misreads some answers
    /// of SeaweedFS and waits a minute for their rest.
    #[track_caller]
    pub fn mirror(self, site: &Site, root: &str, prefix: &str, flags: &[&str]) {
        let mut command = self.command(site);
        let url = site.url(prefix);
        let target = match self {
            Self::Rclone => url.replace("s3://", "site:"),
            Self::Aws | Self::S3cmd | Self::S5cmd => url,
        };
        command.args(flags).args([format!("{root}/"), format!("{target}/")]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{self:?} failed: {output:?}");
    }

    /// The tool with an environment of its own, its words up to the one that says what to do.
    fn command(self, site: &Site) -> Command {
        let endpoint = &site.proxy.url();
        let python = required("HAUL_TEST_PYTHON");
        let mut command = Command::new(Path::new(&python).with_file_name(self.name()));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", site.directory("home-of-peers"))
            .env("LANG", "C.UTF-8")
            .env("AWS_ACCESS_KEY_ID", &site.server.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &site.server.secret_key)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        match self {
            Self::Aws => command.args(["--endpoint-url", endpoint, "s3", "sync"]),
            Self::Rclone => command
                .env("RCLONE_CONFIG", "")
                .env("RCLONE_CONFIG_SITE_TYPE", "s3")
                .env("RCLONE_CONFIG_SITE_PROVIDER", "Other")
                .env("RCLONE_CONFIG_SITE_ENV_AUTH", "true")
                .env("RCLONE_CONFIG_SITE_ENDPOINT", endpoint)
                .arg("copy"),
            Self::S3cmd => {
                let host = endpoint.trim_start_matches("http://");
                command
                    .args(["--config", &site.at("no-such-file"), "--region", "us-east-1"])
                    .args(["--host", host, "--host-bucket", &format!("{host}/%(bucket)")])
                    .args(["--no-ssl", "sync"])
            }
            Self::S5cmd => command.args(["--endpoint-url", endpoint, "sync"]),
        };
        command
    }
}
