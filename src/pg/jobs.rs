//! One step of job processing: read the leased jobs, move their shares, write everything back.
//!
//! The three parts are apart because the middle one talks to providers: the worker runs it outside any transaction, `kw_run_jobs` in one that
//! holds no row lock.

use super::{
    catalog::{
        Held,
        job::{self, Job, Verdict},
        rewritten, wrapper,
    },
    report::Failure,
    rewrap::{self, Batch, Rewrap, Targets},
};
use std::collections::HashMap;

/// Jobs whose wrappers were read, ready for the providers.
pub(crate) struct Work {
    jobs: Vec<Job>,
    batch: Batch,
    generations: Vec<i64>,
    verdicts: Vec<(i64, Verdict)>,
}

/// Jobs whose shares were moved, ready to be written.
pub(crate) struct Moved {
    jobs: Vec<Job>,
    results: Vec<(i64, Rewrap)>,
    verdicts: Vec<(i64, Verdict)>,
}

/// Reads what jobs need that this session has leased.
pub(crate) fn load(jobs: Vec<Job>) -> Result<Work, Failure> {
    let mut targets: HashMap<i64, Targets> = HashMap::new();
    let mut verdicts = Vec::new();
    for job in &jobs {
        match Targets::new(job.target_kms1, job.target_kms2, job.target_layers.as_ref()) {
            Ok(t) => drop(targets.insert(job.wrapper, t)),
            Err(failure) => verdicts.push((job.id, Verdict::Failed(failure.one_line()))),
        }
    }
    let ids: Vec<i64> = jobs.iter().map(|job| job.wrapper).collect();
    let mut layers: Vec<i16> = targets.values().flat_map(Targets::layers).collect();
    layers.sort_unstable();
    layers.dedup();
    let rows = wrapper::by_ids_to_move(&ids, &layers)?.into_iter().filter_map(|row| targets.remove(&row.id).map(|t| (row, t))).collect();
    let batch = Batch::load(rows)?;
    let generations = wrapper::next_generations(batch.len())?;
    Ok(Work { jobs, batch, generations, verdicts })
}

impl Work {
    /// Whether nobody has to be waited for.
    pub(crate) fn is_local(&self) -> bool {
        self.batch.is_local()
    }

    /// Moves the shares. No database access.
    pub(crate) async fn run(self) -> Moved {
        let results = self.batch.run(&self.generations).await;
        Moved { jobs: self.jobs, results, verdicts: self.verdicts }
    }
}

impl Moved {
    /// Writes wrappers back and records every job, in the caller's transaction.
    pub(crate) fn store(self) -> Result<usize, Failure> {
        let Self { jobs, results, mut verdicts } = self;
        let by_wrapper: HashMap<i64, &Job> = jobs.iter().map(|job| (job.wrapper, job)).collect();
        let mut ready = Vec::new();
        for (id, result) in results {
            let Some(job) = by_wrapper.get(&id) else { continue };
            match result {
                Rewrap::Current => verdicts.push((job.id, Verdict::Done)),
                Rewrap::Ready(new) => ready.push(*new),
                Rewrap::Failed(failure) => verdicts.push((job.id, verdict(job, &failure))),
            }
        }
        let ids: Vec<i64> = ready.iter().map(|r| r.id).collect();
        let taken = rewritten::taken_versions(&ready)?;
        ready.retain(|r| !taken.contains(&r.id));
        let written = rewrap::write(ready, Held::Skip)?;
        for id in ids {
            if let Some(job) = by_wrapper.get(&id) {
                // Not written: another session was quicker, or holds the wrapper or its new key, or the drawn version is taken. However long that
                // lasts, a next attempt sees what is there.
                let done = if written.contains(&id) { Verdict::Done } else { verdict(job, &Failure::changed().passing()) };
                verdicts.push((job.id, done));
            }
        }
        job::record(&verdicts)?;
        Ok(verdicts.len())
    }
}

fn verdict(job: &Job, failure: &Failure) -> Verdict {
    if failure.is_passing() || failure.is_transient() && job.attempts < job.max_attempts {
        Verdict::Retry(failure.one_line())
    } else {
        Verdict::Failed(failure.one_line())
    }
}
