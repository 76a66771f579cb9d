//! Experiments as plans in files.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    claim::{Claim, Control},
};

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// Two minutes on two cores.
    Quick,
    /// What runs without a flag; a plan without this size runs its full one then.
    Default,
    /// The size of every figure that is quoted.
    Full,
}

impl Size {
    /// Returns the name as the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Default => "default",
            Self::Full => "full",
        }
    }

    /// Chooses what belongs to this size; the full size's where the default size has none of its own.
    pub fn choose<'a, T>(self, quick: &'a T, default: Option<&'a T>, full: &'a T) -> &'a T {
        match self {
            Self::Quick => quick,
            Self::Default => default.unwrap_or(full),
            Self::Full => full,
        }
    }
}

/// The paper an experiment reproduces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// Family names of the authors.
    pub authors: String,
    /// Title.
    pub title: String,
    /// Where it appeared.
    pub venue: String,
    /// Identifier.
    pub id: String,
    /// Address.
    pub url: String,
}

/// What a size costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Time on an idle machine, in words.
    pub budget: String,
    /// Seeds of each part.
    pub seeds: BTreeMap<String, u64>,
}

/// One thing that is run, for each seed of its part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Its name on the command line and in files.
    pub name: String,
    /// The part of the experiment it belongs to.
    pub part: String,
    /// What it is, in one line.
    pub about: String,
    /// Arms that must be run before, with the same seed.
    #[serde(default)]
    pub needs: Vec<String>,
    /// The sizes that run it unasked; every size without. At the others it runs where it is named or needed.
    #[serde(default)]
    pub sizes: Option<Vec<Size>>,
}

impl Arm {
    /// Says whether a size runs the arm unasked.
    pub fn belongs_to(&self, size: Size) -> bool {
        self.sizes.as_ref().is_none_or(|sizes| sizes.contains(&size))
    }
}

/// An experiment as it was planned: data, read from a file that is fixed before the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Name on the command line.
    pub name: String,
    /// The question, as a title.
    pub title: String,
    /// The day on which the plan was fixed.
    pub registered: String,
    /// The primary metric.
    pub metric: String,
    /// The direction that is expected of it, and what counts as shown.
    pub direction: String,
    /// The paper.
    pub paper: Paper,
    /// What each size costs.
    pub sizes: BTreeMap<Size, Budget>,
    /// What is run.
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
    /// What is claimed.
    #[serde(rename = "claim")]
    pub claims: Vec<Claim>,
    /// What must not happen.
    #[serde(rename = "control")]
    pub controls: Vec<Control>,
    /// Settings of the parts, which the experiment's own code reads.
    pub settings: toml::Table,
}

impl Experiment {
    /// Reads a plan and checks that its parts fit together.
    ///
    /// # Errors
    /// [`Error::Plan`] with the line, or with the name that does not exist or comes twice.
    pub fn from_plan(name: &str, text: &str) -> Result<Self> {
        let fail = |why: String| Error::Plan { experiment: name.to_owned(), why };
        let plan: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        plan.check().map_err(fail)?;
        Ok(plan)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let mut known = BTreeSet::new();
        for arm in &self.arms {
            // An arm may only need arms above it, so that no circle can be written down.
            check_arms(&arm.name, &arm.needs, &known)?;
            if !known.insert(arm.name.as_str()) {
                return Err(format!("arm {} comes twice", arm.name));
            }
            self.check_sizes(&arm.name, arm.sizes.as_deref().unwrap_or_default())?;
            if let Some((size, _)) = self.sizes.iter().find(|(_, b)| !b.seeds.contains_key(&arm.part)) {
                return Err(format!("size {} has no seeds for part {}", size.name(), arm.part));
            }
        }
        let ids = self.claims.iter().map(|c| (&c.id, &c.arms));
        let mut seen = BTreeSet::new();
        for (id, arms) in ids.chain(self.controls.iter().map(|c| (&c.id, &c.arms))) {
            check_arms(id, arms, &known)?;
            if !seen.insert(id) {
                return Err(format!("the id {id} comes twice"));
            }
        }
        self.claims.iter().try_for_each(|claim| self.check_sizes(&claim.id, &claim.required))
    }

    fn check_sizes(&self, who: &str, sizes: &[Size]) -> std::result::Result<(), String> {
        match sizes.iter().find(|size| !self.sizes.contains_key(size)) {
            None => Ok(()),
            Some(size) => Err(format!("{who} names the size {}, which the plan does not have", size.name())),
        }
    }

    /// Returns the size that is run: the one that is asked for, else the default one, else the full one.
    ///
    /// # Errors
    /// [`Error::Usage`] for a size that the plan does not have.
    pub fn size(&self, asked: Option<Size>) -> Result<Size> {
        let unasked = [Size::Default, Size::Full].into_iter().find(|size| self.sizes.contains_key(size));
        let size = asked.or(unasked).unwrap_or(Size::Quick);
        if self.sizes.contains_key(&size) {
            return Ok(size);
        }
        let known: Vec<&str> = self.sizes.keys().map(|size| size.name()).collect();
        let why = format!("{} has the sizes {}", self.name, known.join(", "));
        Err(Error::usage(format!("--{}", size.name()), why))
    }

    /// Finds an arm.
    pub fn arm(&self, name: &str) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// Returns the arms of a selection with all they need, in the order of the plan; those of the size for no selection.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is not an arm, with the names that are.
    pub fn select(&self, names: &[String], size: Size) -> Result<Vec<&Arm>> {
        let unasked = |arm: &&Arm| names.is_empty() && arm.belongs_to(size);
        let mut wanted: BTreeSet<&str> =
            self.arms.iter().filter(unasked).map(|arm| arm.name.as_str()).collect();
        for name in names {
            if self.arm(name).is_none() {
                let known: Vec<&str> = self.arms.iter().map(|a| a.name.as_str()).collect();
                let why = format!("{} has no such arm; it has {}", self.name, known.join(", "));
                return Err(Error::usage(format!("--arms {name}"), why));
            }
            wanted.insert(name.as_str());
        }
        // From the last arm to the first: what an arm needs stands above it.
        for arm in self.arms.iter().rev() {
            if wanted.contains(arm.name.as_str()) {
                wanted.extend(arm.needs.iter().map(String::as_str));
            }
        }
        Ok(self.arms.iter().filter(|a| wanted.contains(a.name.as_str())).collect())
    }
}

fn check_arms(who: &str, arms: &[String], known: &BTreeSet<&str>) -> std::result::Result<(), String> {
    match arms.iter().find(|arm| !known.contains(arm.as_str())) {
        None => Ok(()),
        Some(arm) => Err(format!("{who} names the arm {arm}, which is not above it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
        name = "x"
        title = "t"
        registered = "2026-01-01"
        metric = "m"
        direction = "d"
        settings = {}
        [paper]
        authors = "a"
        title = "t"
        venue = "v"
        id = "i"
        url = "u"
        [sizes.quick]
        budget = "1 s"
        seeds = { p = 1 }
        [[arm]]
        name = "a"
        part = "p"
        about = "first"
        [[arm]]
        name = "b"
        part = "p"
        about = "second"
        needs = ["a"]
        [[arm]]
        name = "c"
        part = "p"
        about = "third"
        [[claim]]
        id = "k"
        source = "s"
        statement = "s"
        paper = "p"
        criterion = { kind = "above", than = 0.0 }
        required = ["quick"]
        arms = ["a", "b"]
        [[control]]
        id = "l"
        statement = "s"
        criterion = { kind = "within", margin = 0.1 }
        arms = ["b"]
    "#;

    fn names(plan: &Experiment, selection: &[&str]) -> Vec<String> {
        let selection: Vec<String> = selection.iter().map(ToString::to_string).collect();
        plan.select(&selection, Size::Quick).unwrap().iter().map(|a| a.name.clone()).collect()
    }

    #[test]
    fn a_selection_brings_what_it_needs() {
        let plan = Experiment::from_plan("x", PLAN).unwrap();
        assert_eq!(names(&plan, &[]), ["a", "b", "c"]);
        assert_eq!(names(&plan, &["b"]), ["a", "b"]);
        assert_eq!(names(&plan, &["c"]), ["c"]);
        let error = plan.select(&["d".to_owned()], Size::Quick).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("a, b, c"), "{error}");
    }

    /// The plan with three sizes, of which two run only some arms.
    fn with_sizes() -> String {
        let size = |name| format!("[sizes.{name}]\nbudget = \"1 s\"\nseeds = {{ p = 1 }}\n");
        let more = size("default") + &size("full") + "[[arm]]\nname = \"a\"";
        let plan = PLAN.replacen("[[arm]]\n        name = \"a\"", &more, 1);
        let plan = plan.replace("about = \"first\"", "about = \"first\"\nsizes = [\"full\"]");
        plan.replace("about = \"second\"", "about = \"second\"\nsizes = [\"default\", \"full\"]")
    }

    #[test]
    fn arms_run_at_their_sizes_and_where_they_are_named_or_needed() {
        let plan = Experiment::from_plan("x", &with_sizes()).unwrap();
        let run = |size, names: &[&str]| -> Vec<String> {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            plan.select(&names, size).unwrap().iter().map(|arm| arm.name.clone()).collect()
        };
        assert_eq!(run(Size::Quick, &[]), ["c"]);
        assert_eq!(run(Size::Default, &[]), ["a", "b", "c"], "b needs a");
        assert_eq!(run(Size::Full, &[]), ["a", "b", "c"]);
        assert_eq!(run(Size::Quick, &["b"]), ["a", "b"]);
    }

    #[test]
    fn without_a_flag_the_default_size_runs_or_else_the_full_one() {
        let plan = Experiment::from_plan("x", &with_sizes()).unwrap();
        assert_eq!(plan.size(None).unwrap(), Size::Default);
        assert_eq!(plan.size(Some(Size::Quick)).unwrap(), Size::Quick);
        let mut two = plan.clone();
        two.sizes.remove(&Size::Default);
        assert_eq!(two.size(None).unwrap(), Size::Full);
        two.sizes.remove(&Size::Full);
        assert_eq!(two.size(Some(Size::Full)).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn plans_that_contradict_themselves_are_refused() {
        for (from, to, word) in [
            (r#"needs = ["a"]"#, r#"needs = ["c"]"#, "names the arm c"),
            (r#"name = "c""#, r#"name = "a""#, "comes twice"),
            (r#"id = "l""#, r#"id = "k""#, "comes twice"),
            (r#"arms = ["b"]"#, r#"arms = ["z"]"#, "names the arm z"),
            ("seeds = { p = 1 }", "seeds = { q = 1 }", "no seeds for part p"),
            ("than = 0.0", "then = 0.0", "then"),
            (r#"metric = "m""#, r#"metrik = "m""#, "metrik"),
            (r#"required = ["quick"]"#, r#"required = ["full"]"#, "k names the size full"),
            (r#"about = "third""#, "about = \"third\"\nsizes = [\"default\"]", "c names the size default"),
        ] {
            let error = Experiment::from_plan("x", &PLAN.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
