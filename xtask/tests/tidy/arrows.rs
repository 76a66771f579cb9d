//! Which crate may depend on which; `docs/architecture.md` says why.

use xtask::{DependencyKind, Metadata, Package};

use crate::{expect_none, workspace};

/// The arrows of the map. `align-types` may be used by every crate but `xtask`.
const MAP: &[(&str, &[&str])] = &[
    ("align-types", &[]),
    ("align-core", &[]),
    ("align-rules", &[]),
    ("align-data", &[]),
    ("align-report", &[]),
    ("align-losses", &["align-core"]),
    ("align-rm", &["align-core", "align-losses"]),
    ("align-ppo", &["align-core", "align-losses"]),
    ("align-rest", &["align-core", "align-losses"]),
    ("align-cgpo", &["align-core", "align-losses", "align-rules"]),
    ("align-lm", &["align-core"]),
    ("align-rollout", &["align-core", "align-lm"]),
    ("align-train", &["align-core"]),
    ("align-testkit", &["align-core"]),
    ("align-repro", EVERYTHING_BELOW),
    ("align-cli", EVERYTHING_BELOW),
    ("xtask", &[]),
];

/// What the programs at the top may use. `align-repro` may also use the test kit.
const EVERYTHING_BELOW: &[&str] = &[
    "align-core",
    "align-rules",
    "align-report",
    "align-losses",
    "align-rm",
    "align-ppo",
    "align-rest",
    "align-cgpo",
    "align-lm",
    "align-rollout",
    "align-data",
    "align-train",
];

/// Crates that must work where there is no libtorch.
const WITHOUT_LIBTORCH: [&str; 5] = ["align-types", "align-rules", "align-data", "align-report", "xtask"];

#[test]
fn arrows_between_crates_are_in_the_map() {
    expect_none(&problems(&workspace().1));
}

fn problems(metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let from = package.name.as_str();
        let Some((_, allowed)) = MAP.iter().find(|(name, _)| *name == from) else {
            problems.push(format!("{from} is not in the map: add it there and to docs/architecture.md"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let ours = metadata.packages.iter().any(|p| p.name == to);
            if ours && !allows(from, allowed, to, dependency.kind) {
                problems.push(format!("{from} must not depend on {to}"));
            }
            if ["tch", "torch-sys"].contains(&to) && WITHOUT_LIBTORCH.contains(&from) {
                problems.push(format!("{from} must not link libtorch, but depends on {to}"));
            }
        }
    }
    problems
}

fn allows(from: &str, allowed: &[&str], to: &str, kind: DependencyKind) -> bool {
    if from == "xtask" {
        return false;
    }
    let for_tests = match from {
        // The loop is tried with objectives of policies and of reward models.
        "align-train" => ["align-losses", "align-rm", "align-lm", "align-testkit"].contains(&to),
        "align-rollout" => ["align-losses", "align-lm", "align-testkit"].contains(&to),
        // A folder as a reward is tried with the models and tokenizers that it does not know.
        "align-rm" => ["align-lm", "align-data", "align-testkit"].contains(&to),
        // Its iteration is tried with the engine, the sampler and the models that it does not know.
        "align-ppo" => ["align-train", "align-rollout", "align-lm", "align-testkit"].contains(&to),
        from => to == "align-testkit" && !WITHOUT_LIBTORCH.contains(&from),
    };
    to == "align-types"
        || allowed.contains(&to)
        || (from == "align-repro" && to == "align-testkit")
        || (kind == DependencyKind::Dev && for_tests)
}

#[test]
fn wrong_arrows_are_caught() {
    let metadata = |from: &str, to: &str, kind| Metadata {
        target_directory: "/t".into(),
        packages: [from, to].map(|name| package(name, (name == from).then_some((to, kind)))).into(),
    };
    let wrong = |from, to, kind| !problems(&metadata(from, to, kind)).is_empty();
    use DependencyKind::{Build, Dev, Normal};
    for (from, to, kind) in [
        ("align-ppo", "align-rm", Normal),
        ("align-ppo", "align-train", Normal),
        ("align-ppo", "align-rm", Dev),
        ("align-rm", "align-lm", Normal),
        ("align-rm", "align-data", Normal),
        ("align-rm", "align-train", Dev),
        ("align-losses", "align-lm", Normal),
        ("align-losses", "align-lm", Dev),
        ("align-types", "align-core", Normal),
        ("align-report", "align-core", Normal),
        ("align-report", "tch", Normal),
        ("align-data", "align-core", Normal),
        ("align-data", "align-testkit", Dev),
        ("align-train", "align-losses", Normal),
        ("align-core", "align-testkit", Normal),
        ("align-core", "align-lm", Build),
        ("align-cli", "align-repro", Normal),
        ("align-cli", "align-testkit", Normal),
        ("align-repro", "align-cli", Normal),
        ("xtask", "align-types", Dev),
        ("xtask", "torch-sys", Normal),
        ("align-data", "tch", Normal),
        ("align-new", "align-types", Normal),
    ] {
        assert!(wrong(from, to, kind), "{from} -> {to} ({kind:?})");
    }
    for (from, to, kind) in [
        ("align-ppo", "align-losses", Normal),
        ("align-ppo", "align-types", Normal),
        ("align-core", "align-testkit", Dev),
        ("align-train", "align-losses", Dev),
        ("align-train", "align-rm", Dev),
        ("align-rm", "align-data", Dev),
        ("align-repro", "align-testkit", Normal),
        ("align-cli", "align-report", Normal),
        ("align-cgpo", "align-rules", Normal),
    ] {
        assert!(!wrong(from, to, kind), "{from} -> {to} ({kind:?})");
    }
}

#[cfg(test)]
fn package(name: &str, dependency: Option<(&str, DependencyKind)>) -> Package {
    let dependency = dependency.map(|(name, kind)| xtask::Dependency { name: name.to_owned(), kind });
    // The tests name "tch" as if it were a member; only its name matters.
    let name = if name == "tch" || name == "torch-sys" { "align-types" } else { name };
    Package {
        name: name.to_owned(),
        dir: "/d".into(),
        published: true,
        dependencies: dependency.into_iter().collect(),
        targets: Vec::new(),
    }
}
