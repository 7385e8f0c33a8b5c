//! `sync`, `plan` and `check`: a job, run or only planned.

use super::Session;
use crate::args::{Compare, Ends, How};
use crate::settings;
use crate::ui::{Face, note};
use clap::ArgMatches;
use haul::{Afterwards, CompareBy, Control, Effect, Job, Result};

impl Session {
    pub async fn sync(
        &self,
        ends: &Ends,
        how: &How,
        dry_run: bool,
        matches: &ArgMatches,
    ) -> Result<u8> {
        let mut job = self.job(ends)?;
        job.delete = how.delete;
        job.allowed = settings::allowed(how);
        job.delete_excluded = how.delete_excluded;
        job.compare = settings::compare_by(&how.compare);
        job.filter = settings::filter(&how.compare, matches)?;
        if dry_run {
            (job.effect, job.command) = (Effect::Plan, "plan");
        }
        job.update_metadata = how.update_metadata;
        self.run(&job).await
    }

    pub async fn check(
        &self,
        ends: &Ends,
        how: &Compare,
        deep: bool,
        matches: &ArgMatches,
    ) -> Result<u8> {
        let mut job = self.job(ends)?;
        // What is only at the target is a difference, too; nothing is deleted in a plan.
        job.delete = true;
        job.allowed.force_empty = true;
        job.allowed.max_delete = haul::MaxDelete::Count(u64::MAX);
        job.compare = if deep { CompareBy::Bytes } else { settings::compare_by(how) };
        job.filter = settings::filter(how, matches)?;
        job.effect = Effect::Check;
        job.command = "check";
        self.run(&job).await
    }

    /// `cp -r` and `mv -r`: everything below, without a comparison.
    pub(super) async fn transfer_all(&self, ends: &Ends, afterwards: Afterwards) -> Result<u8> {
        let mut job = self.job(ends)?;
        job.compare = CompareBy::Nothing;
        job.afterwards = afterwards;
        job.command = match afterwards {
            Afterwards::KeepSource => "cp",
            Afterwards::RemoveSource => "mv",
        };
        self.run(&job).await
    }

    fn job(&self, ends: &Ends) -> Result<Job> {
        let mut endpoint = None;
        let source = settings::place(&ends.source, &self.global, &mut endpoint)?;
        let target = settings::place(&ends.target, &self.global, &mut endpoint)?;
        let mut job = Job::new(source, target);
        if let Some(jobs) = self.global.jobs {
            job.transfers = jobs.into();
        }
        job.memory_bytes = self.global.max_memory;
        job.state = settings::state_directory(&self.global);
        if job.state.is_none() && !self.global.quiet {
            note("haul: nothing is remembered: neither HOME nor --state-dir says where");
        }
        Ok(job)
    }

    async fn run(&self, job: &Job) -> Result<u8> {
        let face = Face::new(&self.global, job);
        let control = Control { observer: &face, stop: self.stop.clone(), state: None };
        let outcome = haul::run(job, &control).await;
        face.end(outcome).map(|summary| summary.exit_code_of(job.effect))
    }
}
