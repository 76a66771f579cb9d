//! A run with its verdicts.

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Result,
    experiment::{Experiment, Size},
    store::pretty,
    study::{Findings, Results, Study},
    verdict::{ControlVerdict, JudgedClaim, JudgedControl, Verdict, passes},
};

/// A run with its verdicts: all that a report shows, times and machine aside.
#[derive(Debug)]
pub struct Outcome {
    /// The plan.
    pub experiment: Experiment,
    /// The size that was run.
    pub size: Size,
    /// The arms that were run, with the number of their seeds.
    pub ran: Vec<(String, u64)>,
    /// The claims with their verdicts.
    pub claims: Vec<JudgedClaim>,
    /// The controls with their verdicts.
    pub controls: Vec<JudgedControl>,
    /// Tables, figures, samples.
    pub findings: Findings,
    /// What the verdicts mean, in three sentences.
    pub answer: Vec<String>,
}

impl Outcome {
    /// Judges the results of a study's units.
    ///
    /// # Errors
    /// Those of [`Study::findings`].
    pub fn judge(study: &dyn Study, results: &Results) -> Result<Self> {
        let ran = study.ran();
        let (experiment, size) = (study.planned().experiment().clone(), study.planned().size());
        let findings = study.findings(results)?;
        let evidence = |id: &str| findings.evidence.get(id).copied();
        let claims = experiment.claims.iter().map(|c| JudgedClaim::new(c, evidence(&c.id), size)).collect();
        let controls = experiment.controls.iter().map(|c| JudgedControl::new(c, evidence(&c.id))).collect();
        let mut outcome = Self { experiment, size, ran, claims, controls, findings, answer: Vec::new() };
        outcome.answer = study.answer(&outcome);
        Ok(outcome)
    }

    /// Says whether the run passes: exit code 0 or 1.
    pub fn passes(&self) -> bool {
        passes(&self.claims, &self.controls)
    }

    /// Returns the verdict of a claim.
    pub fn verdict(&self, id: &str) -> Verdict {
        self.claims.iter().find(|c| c.claim.id == id).map_or(Verdict::NotRun, |c| c.verdict)
    }

    /// Says whether all of these claims are reproduced.
    pub fn reproduced(&self, ids: &[&str]) -> bool {
        ids.iter().all(|id| self.verdict(id) == Verdict::Reproduced)
    }

    /// Returns the verdict of a control.
    pub fn control_verdict(&self, id: &str) -> ControlVerdict {
        self.controls.iter().find(|c| c.control.id == id).map_or(ControlVerdict::NotRun, |c| c.verdict)
    }

    /// Says in one line why the run passes or not.
    pub fn summary(&self) -> String {
        let required = self.claims.iter().filter(|c| c.required).count();
        let decided = self.claims.iter().filter(|c| c.decides).count();
        let good = self.claims.iter().filter(|c| c.decides && c.verdict == Verdict::Reproduced).count();
        let controls = self.controls.iter().filter(|c| c.decides).count();
        let fine = self.controls.iter().filter(|c| c.decides && c.verdict == ControlVerdict::Holds);
        let mut line = format!(
            "{}: {good} of {decided} required claims reproduced, {} of {controls} controls hold",
            if self.passes() { "passed" } else { "FAILED" },
            fine.count(),
        );
        if decided < required {
            line += &format!("; {} required claims were not run or have one seed only", required - decided);
        }
        line
    }

    /// Formats `result.json`: the same bytes for the same plan, size, seeds, data and thread count.
    ///
    /// # Errors
    /// A value that JSON cannot hold.
    pub fn to_json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct File<'a> {
            experiment: &'a str,
            title: &'a str,
            paper: &'a crate::experiment::Paper,
            registered: &'a str,
            metric: &'a str,
            direction: &'a str,
            size: Size,
            passes: bool,
            answer: &'a [String],
            claims: &'a [JudgedClaim],
            controls: &'a [JudgedControl],
            ran: Vec<Value>,
            settings: &'a toml::Table,
            findings: Value,
        }
        let plan = &self.experiment;
        let findings = json!({
            "tables": self.findings.tables,
            "figures": self.findings.figures,
            "samples": self.findings.samples,
            "deviations": self.findings.deviations,
        });
        pretty(&File {
            experiment: &plan.name,
            title: &plan.title,
            paper: &plan.paper,
            registered: &plan.registered,
            metric: &plan.metric,
            direction: &plan.direction,
            size: self.size,
            passes: self.passes(),
            answer: &self.answer,
            claims: &self.claims,
            controls: &self.controls,
            ran: self.ran.iter().map(|(arm, seeds)| json!({"arm": arm, "seeds": seeds})).collect(),
            settings: &plan.settings,
            findings,
        })
    }
}
