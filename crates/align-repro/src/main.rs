//! `align-repro`: runs an experiment of a paper and says what is reproduced.

use std::{
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use align_core::threads::prepare_compute_thread;
use align_repro::{
    Environment, Error, Result,
    abstain::{self, Abstain},
    curriculum::{self, Curriculum},
    dpo_vs_ppo::{self, DpoVsPpo},
    experiment::{Experiment, Size},
    kto,
    on_policy::study::MethodStudy,
    outcome::Outcome,
    report::{self, Report},
    reward::study::RewardStudy,
    reward_boundary, reward_overoptimisation, reward_ranking,
    rlhf::{self, Rlhf},
    runner::{RunOptions, run_units},
    store::{Store, pretty},
    study::{Options, Study, Texts},
    style::study::StyleStudy,
    una,
};
use clap::Parser;

/// Runs an experiment of a paper and says what is reproduced and what is not.
///
/// Exit code 0: every claim required at this size is reproduced and every control holds; 1: not so;
/// 2: usage; 3: environment; 4: data or model; 130: interrupted.
#[derive(Debug, Parser)]
#[command(name = "align-repro", version)]
struct Cli {
    /// The experiment, for example dpo-vs-ppo
    #[arg(value_name = "NAME", required_unless_present = "list")]
    name: Option<String>,
    /// The size that ends within two minutes on two cores
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The size of every figure that is quoted; runs without a flag where an experiment has no default size
    #[arg(long)]
    full: bool,
    /// How many seeds, for every part that has several
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: Option<u64>,
    /// The first seed of the illustration, for tuning on seeds that are not reported
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    first_seed: u64,
    /// Another plan, for tuning on seeds that are not reported
    #[arg(long, value_name = "FILE", hide = true)]
    plan: Option<PathBuf>,
    /// Only these arms (and what they need), separated by commas
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    arms: Vec<String>,
    /// Preference pairs to use instead of made ones (repeatable)
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Hugging Face folder to start from instead of a new small model
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Where result.json, report.md and report.html go [default: target/reproduce/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue an interrupted run: finished units are not run again
    #[arg(long)]
    resume: bool,
    /// List the experiments with their sizes, arms, claims and controls
    #[arg(long)]
    list: bool,
}

/// Set by Ctrl-C; units look at it.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = Cli::parse();
    prepare_compute_thread();
    match run(&cli) {
        Ok(passes) => ExitCode::from(u8::from(!passes)),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// The experiments on generated style, which are plans of one study.
const STYLE: [Texts; 2] = [kto::TEXTS, una::TEXTS];

/// The experiments on reward models, which are plans of another.
const REWARD: [Texts; 3] = [reward_ranking::TEXTS, reward_overoptimisation::TEXTS, reward_boundary::TEXTS];

/// The experiments on policies that are trained on their own samples.
const ON_POLICY: [Texts; 3] = [abstain::TEXTS, curriculum::TEXTS, rlhf::TEXTS];

fn planned() -> impl Iterator<Item = Texts> {
    STYLE.into_iter().chain(REWARD).chain(ON_POLICY)
}

fn run(cli: &Cli) -> Result<bool> {
    if cli.list {
        return list();
    }
    let name = cli.name.as_deref().unwrap_or_default();
    if let Some(texts) = planned().find(|texts| texts.name == name) {
        let given = [("--data", !cli.data.is_empty()), ("--model", cli.model.is_some())];
        if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(Error::usage(flag, format!("{name} makes its own data and model")));
        }
        if STYLE.iter().any(|texts| texts.name == name) {
            return reproduce(&StyleStudy::new(texts, options(cli)?)?, cli);
        }
        if name == abstain::TEXTS.name {
            return reproduce(&MethodStudy::<Abstain>::new(texts, options(cli)?)?, cli);
        }
        if name == curriculum::TEXTS.name {
            return reproduce(&MethodStudy::<Curriculum>::new(texts, options(cli)?)?, cli);
        }
        if name == rlhf::TEXTS.name {
            return reproduce(&MethodStudy::<Rlhf>::new(texts, options(cli)?)?, cli);
        }
        return reproduce(&RewardStudy::new(texts, options(cli)?)?, cli);
    }
    if name != dpo_vs_ppo::NAME {
        let known: Vec<&str> = planned().map(|texts| texts.name).collect();
        let why = format!("no such experiment; there are {}, {}", dpo_vs_ppo::NAME, known.join(", "));
        return Err(Error::usage(name, why));
    }
    let study = DpoVsPpo::new(dpo_vs_ppo::Options {
        common: options(cli)?,
        data: cli.data.clone(),
        model: cli.model.clone(),
    })?;
    reproduce(&study, cli)
}

/// What all experiments are told.
fn options<T: Default>(cli: &Cli) -> Result<Options<T>> {
    let size = match (cli.quick, cli.full) {
        (true, _) => Some(Size::Quick),
        (_, true) => Some(Size::Full),
        _ => None,
    };
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e));
    Ok(Options {
        size,
        seeds: cli.seeds,
        first_seed: cli.first_seed,
        arms: cli.arms.clone(),
        plan: cli.plan.as_ref().map(read).transpose()?,
        tamper: T::default(),
    })
}

fn list() -> Result<bool> {
    print(&report::listing(&Experiment::from_plan(dpo_vs_ppo::NAME, dpo_vs_ppo::PLAN)?))?;
    for texts in planned() {
        print("\n")?;
        print(&report::listing(&Experiment::from_plan(texts.name, texts.plan)?))?;
    }
    Ok(true)
}

fn reproduce(study: &dyn Study, cli: &Cli) -> Result<bool> {
    let planned = study.planned();
    let name = &planned.experiment().name;
    let out = cli.out.clone().unwrap_or_else(|| PathBuf::from("target/reproduce").join(name));
    let store = Store::open(&out, &study.inputs()?, cli.resume)?;
    stop_on_interrupt()?;
    let started = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let results = run_units(study, &study.units()?, &store, RunOptions { workers, stop: &STOP, talk: true })?;
    let outcome = Outcome::judge(study, &results)?;
    let environment = Environment::here(command(), workers, started.elapsed().as_secs_f64());
    let report = Report { outcome: &outcome, environment: &environment, plan: planned.text() };
    store.write("result.json", outcome.to_json()?.as_bytes())?;
    store.write("environment.json", pretty(&environment)?.as_bytes())?;
    store.write("report.md", report::markdown(&report).as_bytes())?;
    store.write("report.html", report::html(&report).as_bytes())?;
    if let Some(plot) = report::plot(&outcome) {
        store.write("plot.svg", plot.as_bytes())?;
    }
    print(&report::text_table(&outcome))?;
    let folder = store.folder().display();
    let _ =
        writeln!(std::io::stderr(), "report: {folder}/report.html, {folder}/report.md, {folder}/result.json");
    Ok(outcome.passes())
}

/// The first Ctrl-C lets units stop where they are whole, the second ends the process at once.
fn stop_on_interrupt() -> Result<()> {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        let _ = writeln!(std::io::stderr(), "stopping; again to stop at once");
    };
    ctrlc::set_handler(handler).map_err(|e| Error::input("Ctrl-C handler", e))
}

/// The command that runs the same again.
fn command() -> String {
    let flags = std::env::args().skip(1).filter(|word| word != "--resume");
    let words: Vec<String> = flags.map(|word| quoted(&word)).collect();
    format!("cargo xtask reproduce {}", words.join(" "))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        // A reader that has seen enough (`| head`) is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("write to", "stdout".as_ref(), e)),
    }
}
