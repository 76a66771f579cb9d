//! From the words of the command line, and a configuration file, to checked settings.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use align_types::config::{DpoConfig, SftLossType};
use clap::{ArgMatches, FromArgMatches, ValueHint, parser::ValueSource};

use crate::{
    Error, Result,
    args::{self, Cli, Command, ReferenceArgs, TrainArgs},
    config_file,
    metrics::{self, Place},
    usage,
};

/// A command line that was read and found in order.
#[derive(Debug)]
pub struct Settings {
    /// The command with its flags.
    pub command: Command,
    /// Every setting of the command, as `config.toml` has them.
    pub resolved: toml::Table,
}

/// Flags that say what to do with a run folder and not what the run is; they are not in `config.toml`.
const NOT_OF_THE_RUN: &[&str] = &["config", "help", "resume", "overwrite", "dry_run", "json", "no_progress"];

/// Reads a command line, with the file of `--config` where there is one, and checks every range.
///
/// Nothing is opened but the configuration file.
///
/// # Errors
/// [`Error::Usage`] names the flag, or the file, line and key; [`Error::Answered`] when help was asked for.
pub fn parse(argv: &[OsString]) -> Result<Settings> {
    // Settings and reports are text: a name that is not would come back as another one.
    if let Some(word) = argv.iter().find(|word| word.to_str().is_none()) {
        let shown = word.to_string_lossy();
        let hint = "rename the file, or give it through a link with such a name".to_owned();
        return Err(crate::Error::usage(format!("{shown}: the name is not valid UTF-8"), [hint]));
    }
    let root = args::command();
    let mut matches =
        root.clone().try_get_matches_from(argv).map_err(|error| usage::explain(&error, argv))?;
    let mut places = BTreeMap::new();
    if let Some((name, path)) = config_of(&matches) {
        let mut root = root.clone();
        root.build();
        let command = root.find_subcommand(&name).cloned().unwrap_or_default();
        let mut words: Vec<OsString> = argv.iter().take(2).cloned().collect();
        for entry in config_file::read(&path, &command)? {
            if !is_on_command_line(&matches, &entry.flag) {
                places.insert(entry.flag, format!("{}:{}", path.display(), entry.line));
                words.extend(entry.words);
            }
        }
        words.extend(argv.iter().skip(2).cloned());
        matches =
            args::command().try_get_matches_from(&words).map_err(|error| usage::explain(&error, argv))?;
    }
    let cli = Cli::from_arg_matches(&matches).map_err(|error| usage::explain(&error, argv))?;
    check(&cli.command).map_err(|error| place(error, &places))?;
    let resolved = resolve(&matches, &cli.command);
    Ok(Settings { command: cli.command, resolved })
}

fn config_of(matches: &ArgMatches) -> Option<(String, PathBuf)> {
    let (name, given) = matches.subcommand()?;
    let path = given.try_get_one::<PathBuf>("config").ok().flatten()?;
    Some((name.to_owned(), path.clone()))
}

fn is_on_command_line(matches: &ArgMatches, flag: &str) -> bool {
    let given = matches.subcommand().map(|(_, given)| given);
    given.and_then(|given| given.value_source(&flag.replace('-', "_"))) == Some(ValueSource::CommandLine)
}

fn check(command: &Command) -> Result<()> {
    match command {
        Command::Sft(sft) => {
            check_training(&sft.train)?;
            check_loss_is_a_measure(sft)?;
            check_metric(&sft.train, &[Place::Sft], &[], |_| true)
        }
        Command::Reward(reward) => {
            reward.reward_config().validate()?;
            check_training(&reward.train)?;
            reward.check()?;
            let there = |name: &str| !name.starts_with("pair_band/");
            check_metric(&reward.train, &[Place::Reward], &[], there)
        }
        Command::Dpo(dpo) => {
            let config = dpo.dpo_config();
            config.validate()?;
            check_training(&dpo.train)?;
            check_dpo_reference(&config, &dpo.reference)?;
            check_reference(&dpo.train, &dpo.reference)?;
            // Without a reference rewards are called otherwise.
            let absent = if config.uses_reference() { "reference_free/" } else { "rewards/" };
            let there = |name: &str| !name.starts_with(absent);
            check_metric(&dpo.train, &[Place::Offline, Place::Dpo], &config.summands(), there)
        }
        Command::Kto(kto) => {
            kto.kto_config().validate()?;
            check_training(&kto.train)?;
            check_reference(&kto.train, &kto.reference)?;
            let pairs = ["rewards/margins", "rewards/accuracies"];
            let there = |name: &str| !pairs.contains(&name);
            check_metric(&kto.train, &[Place::Offline, Place::Kto], &[], there)
        }
        Command::Una(una) => {
            una.una_config().validate()?;
            check_training(&una.train)?;
            check_reference(&una.train, &una.reference)?;
            check_metric(&una.train, &[Place::Offline, Place::Una], &[], |_| true)
        }
        Command::Ppo(ppo) => {
            ppo.check()?;
            check_training_with(&ppo.train, ppo.holds_out(), "--eval-data FILE or --ptx-eval-data FILE")?;
            check_metric(&ppo.train, &[Place::Ppo], &[], |name| ppo.is_held_out(name))
        }
        Command::Generate(generate) => {
            generate.sampling.check()?;
            check_threads(&generate.machine)?;
            check_columns(&generate.columns)
        }
        Command::Logprobs(logprobs) => {
            check_threads(&logprobs.machine)?;
            at_least_one("micro-batch-tokens", logprobs.micro_batch_tokens)?;
            let config = align_data::DataConfig {
                max_length: logprobs.max_length,
                columns: args::columns(&logprobs.columns),
                ..Default::default()
            };
            config.validate().map_err(data_config)
        }
        Command::Eval(eval) => {
            eval.check()?;
            check_threads(&eval.machine)?;
            at_least_one("micro-batch-tokens", eval.micro_batch_tokens)?;
            let config = align_data::DataConfig {
                max_length: eval.max_length,
                columns: args::columns(&eval.columns),
                ..Default::default()
            };
            config.validate().map_err(data_config)
        }
        Command::Score(score) => {
            score.check()?;
            check_threads(&score.machine)?;
            at_least_one("micro-batch-tokens", score.micro_batch_tokens)?;
            score.data_config(None).validate().map_err(data_config)
        }
        Command::Merge(merge) => {
            merge.check()?;
            check_threads(&merge.machine)
        }
        Command::Data(args::DataCommand::Check(check)) => check_columns(&check.columns),
        Command::Doctor(_) | Command::Report(_) | Command::Completions(_) => Ok(()),
    }
}

fn check_training(train: &TrainArgs) -> Result<()> {
    check_training_with(train, !train.watch.eval_data.is_empty(), "--eval-data FILE")
}

/// Checks a training command, of which some rows are held out if `held_out`, by these flags.
fn check_training_with(train: &TrainArgs, held_out: bool, flags: &str) -> Result<()> {
    check_threads(&train.machine)?;
    train.train_config().validate()?;
    train.optimizer_config().validate()?;
    check_adapter(train)?;
    train.data_config().validate().map_err(data_config)?;
    let missing = |flag: &str, what: &str, key: &str, value: &str| {
        let hint = format!("give {flag}, or `{key} = {value}` in the file of --config");
        Err(Error::usage(format!("{flag} is missing: {what}"), [hint]))
    };
    if train.model.is_none() {
        return missing("--model DIR", "the model to train", "model", "\"DIR\"");
    }
    if train.data.is_empty() {
        return missing("--data FILE", "the rows to train on", "data", "[\"FILE\"]");
    }
    if train.output_dir.is_none() && !train.dry_run {
        return missing("--output-dir DIR", "the folder of the run", "output_dir", "\"DIR\"");
    }
    if train.machine.load_in_4bit && train.lora.lora_rank.is_none() && train.machine.adapter.is_none() {
        let why = "weights in 4 bits are never trained, only an adapter on top of them is";
        return Err(Error::usage(format!("--load-in-4bit needs --lora-rank R or --adapter DIR: {why}"), []));
    }
    check_weights(train)?;
    if !held_out && train.watch.eval_every > 0 {
        return Err(Error::usage(format!("--eval-every needs {flags}"), []));
    }
    if !held_out && train.watch.keep_best.is_some() {
        return Err(Error::usage(format!("--keep-best needs {flags}"), []));
    }
    Ok(())
}

fn check_adapter(train: &TrainArgs) -> Result<()> {
    match (train.lora.config(), &train.machine.adapter) {
        (Some(lora), None) => Ok(lora.validate()?),
        (Some(lora), Some(adapter)) => {
            let (rank, adapter) = (lora.rank, adapter.display());
            Err(Error::usage(
                format!("--lora-rank {rank}: there is --adapter {adapter} to train already"),
                ["--lora-rank begins a new adapter, --adapter goes on with one".to_owned()],
            ))
        }
        (None, _) => match train.lora.first_detail() {
            None => Ok(()),
            Some((flag, value)) => Err(Error::usage(
                format!("{flag} {value}: needs --lora-rank R"),
                ["without a rank all weights are trained; an adapter of --adapter has its own settings"
                    .to_owned()],
            )),
        },
    }
}

fn check_weights(train: &TrainArgs) -> Result<()> {
    let (weights, files) = (&train.rows.data_weights, train.data.len());
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite() || **weight <= 0.0) {
        let hint = "leave a file out rather than give it no weight".to_owned();
        return Err(Error::usage(
            format!("--data-weights {weight}: expected a finite number above 0"),
            [hint],
        ));
    }
    if weights.is_empty() || weights.len() == files {
        return Ok(());
    }
    let message = format!("--data-weights has {} weights, and --data {files} files", weights.len());
    Err(Error::usage(message, ["give one weight for each file, in their order".to_owned()]))
}

/// Refuses what a reference cannot be that follows the policy.
fn check_reference(train: &TrainArgs, reference: &ReferenceArgs) -> Result<()> {
    let Some(sync) = reference.sync() else {
        let Some(flag) = reference.first_detail_of_sync() else { return Ok(()) };
        let hint = "without it the reference stays what it is before the first step".to_owned();
        return Err(Error::usage(format!("{flag}: needs --sync-ref-model"), [hint]));
    };
    sync.validate()?;
    if reference.precompute_ref_log_probs {
        let why =
            "after the first move of the reference the precomputed numbers are those of another".to_owned();
        return Err(Error::usage(
            "--sync-ref-model and --precompute-ref-log-probs exclude each other",
            [why],
        ));
    }
    let adapter =
        [("--lora-rank", train.lora.lora_rank.is_some()), ("--adapter", train.machine.adapter.is_some())];
    let Some((flag, _)) = adapter.into_iter().find(|(_, given)| *given) else { return Ok(()) };
    let why = "an adapter is the product of two matrices, and mixing the two is not mixing their product: train all \
               weights, or let the reference stay"
        .to_owned();
    Err(Error::usage(format!("--sync-ref-model and {flag} exclude each other"), [why]))
}

/// Refuses what the reference of these losses cannot be.
fn check_dpo_reference(config: &DpoConfig, reference: &ReferenceArgs) -> Result<()> {
    let given = [
        ("--ref-model", reference.ref_model.is_some()),
        ("--precompute-ref-log-probs", reference.precompute_ref_log_probs),
        ("--sync-ref-model", reference.sync_ref_model),
    ];
    if let Some((flag, _)) = given.iter().find(|(_, given)| *given).filter(|_| !config.uses_reference()) {
        return Err(Error::usage(format!("{flag}: none of the losses has a reference"), []));
    }
    if config.ld_alpha.is_some() && reference.precompute_ref_log_probs {
        let why = "the first needs single tokens of the reference, the second keeps sums".to_owned();
        return Err(Error::usage("--ld-alpha and --precompute-ref-log-probs exclude each other", [why]));
    }
    Ok(())
}

/// Refuses to keep the checkpoint of the least dft loss −p log p, which also falls as tokens below 1/e become less likely.
fn check_loss_is_a_measure(sft: &args::SftArgs) -> Result<()> {
    let metric = sft.train.watch.keep_best.as_deref();
    if sft.loss_type != SftLossType::Dft || !matches!(metric, Some("loss" | "eval/loss")) {
        return Ok(());
    }
    Err(Error::usage(
        "--keep-best loss: with --loss-type dft the loss of a worse model may be lower",
        ["give --keep-best logps/completion".to_owned()],
    ))
}

/// Checks that the method has the metric of `--keep-best`: one of the table's names that `there` says these settings
/// give, or one of their own.
fn check_metric(
    train: &TrainArgs,
    places: &[Place],
    own: &[String],
    there: impl Fn(&str) -> bool,
) -> Result<()> {
    let Some(metric) = train.watch.keep_best.as_deref() else { return Ok(()) };
    let named = metrics::held_out(places).into_iter().filter(|name| there(name));
    let known: Vec<_> = named.chain(own.iter().map(String::as_str)).collect();
    let name = metric.strip_prefix("eval/").unwrap_or(metric);
    if known.contains(&name) {
        return Ok(());
    }
    let near = align_data::nearest(name, known.iter().copied()).map(|near| format!("did you mean {near}?"));
    let choices = format!("choices: {}", known.join(", "));
    Err(Error::usage(
        format!("--keep-best {metric}: there is no such metric"),
        near.into_iter().chain([choices]),
    ))
}

fn check_threads(machine: &args::ModelArgs) -> Result<()> {
    match machine.threads {
        Some(n) if n == 0 || n > 1024 => {
            Err(Error::usage(format!("--threads {n}: expected a number of 1 to 1024"), []))
        }
        _ => Ok(()),
    }
}

fn check_columns(columns: &[String]) -> Result<()> {
    let config = align_data::DataConfig { columns: args::columns(columns), ..Default::default() };
    config.validate().map_err(data_config)
}

fn at_least_one(flag: &str, value: usize) -> Result<()> {
    if value > 0 { Ok(()) } else { Err(Error::usage(format!("--{flag} 0: expected at least 1"), [])) }
}

fn data_config(error: align_data::Error) -> Error {
    match error {
        align_data::Error::Config { key, value, expected } => {
            Error::usage(format!("--{key} {value}: expected {expected}"), [])
        }
        other => Error::usage(other.to_string(), []),
    }
}

/// Names the place in the configuration file where a refused value came from there.
fn place(error: Error, places: &BTreeMap<String, String>) -> Error {
    let Error::Usage { message, hints } = error else { return error };
    let flag = message.strip_prefix("--").and_then(|rest| rest.split_once(' '));
    match flag.and_then(|(flag, rest)| Some((flag.replace('-', "_"), places.get(flag)?, rest))) {
        Some((key, place, rest)) => Error::usage(format!("{place}: {key} = {rest}"), hints),
        None => Error::Usage { message, hints },
    }
}

fn resolve(matches: &ArgMatches, command: &Command) -> toml::Table {
    let root = args::command();
    let mut table = toml::Table::new();
    let Some((name, given)) = matches.subcommand() else { return table };
    let Some(definition) = root.find_subcommand(name) else { return table };
    for arg in definition.get_arguments() {
        let id = arg.get_id().as_str();
        if NOT_OF_THE_RUN.contains(&id) {
            continue;
        }
        if let Some(value) = resolved_value(arg, given) {
            table.insert(id.to_owned(), value);
        }
    }
    let machine = match command {
        Command::Sft(sft) => Some(&sft.train.machine),
        Command::Dpo(dpo) => Some(&dpo.train.machine),
        Command::Reward(reward) => Some(&reward.train.machine),
        Command::Kto(kto) => Some(&kto.train.machine),
        Command::Una(una) => Some(&una.train.machine),
        Command::Ppo(ppo) => {
            let resolved = ppo.resolved().into_iter();
            table.extend(resolved.map(|(key, value)| (key.to_owned(), value)));
            Some(&ppo.train.machine)
        }
        _ => None,
    };
    if let Some(machine) = machine {
        table.insert("threads".to_owned(), toml::Value::Integer(machine.threads() as i64));
    }
    table
}

fn resolved_value(arg: &clap::Arg, given: &ArgMatches) -> Option<toml::Value> {
    let id = arg.get_id().as_str();
    if !arg.get_action().takes_values() {
        return given.try_get_one::<bool>(id).ok().flatten().map(|on| toml::Value::Boolean(*on));
    }
    let is_path = matches!(arg.get_value_hint(), ValueHint::FilePath | ValueHint::DirPath);
    let is_list = matches!(arg.get_action(), clap::ArgAction::Append);
    let raw = given.try_get_raw(id).ok().flatten()?.map(|raw| {
        if is_path {
            // A run is run again from anywhere.
            let path = std::path::absolute(raw).unwrap_or_else(|_| raw.into());
            return toml::Value::String(path.to_string_lossy().into_owned());
        }
        let text = raw.to_string_lossy();
        if is_list { toml::Value::String(text.into_owned()) } else { scalar(&text) }
    });
    let values: Vec<_> = raw.collect();
    if is_list { Some(toml::Value::Array(values)) } else { values.into_iter().next() }
}

fn scalar(text: &str) -> toml::Value {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        return toml::Value::Integer(number);
    }
    // TOML's integers end at 2^63 - 1 and its floats would round a seed beyond; a flag takes text as well.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return toml::Value::String(text.to_owned());
    }
    match text.parse::<f64>() {
        // 1.0 and 1 are the same setting.
        Ok(number) if number.fract() == 0.0 && number.abs() < 1e15 => toml::Value::Integer(number as i64),
        Ok(number) => toml::Value::Float(number),
        Err(_) => toml::Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path.display().to_string())
    }

    fn refused(text: &str) -> Error {
        let (_folder, path) = file(text);
        parse(&words(&format!("align dpo --config {path}"))).unwrap_err()
    }

    #[test]
    fn a_flag_wins_over_the_file_and_lists_are_replaced() {
        let (_folder, path) =
            file("model = \"m\"\ndata = [\"a\", \"b\"]\noutput_dir = \"o\"\nbeta = 0.3\nbatch_size = 2\n");
        let settings = parse(&words(&format!("align dpo --config {path} --beta 0.5 --data c"))).unwrap();
        let Command::Dpo(dpo) = &settings.command else { panic!("not dpo") };
        assert_eq!((dpo.method.beta, dpo.train.batch.batch_size), (0.5, 2));
        assert_eq!(dpo.train.data, [PathBuf::from("c")]);
    }

    #[test]
    fn the_resolved_settings_are_enough_to_run_again() {
        let line = "align dpo --model m --data a --data b --output-dir o --beta 0.25 --reference-free --columns prompt=q";
        let first = parse(&words(line)).unwrap();
        let (_folder, path) = file(&first.resolved.to_string());
        let second = parse(&words(&format!("align dpo --config {path}"))).unwrap();
        assert_eq!(first.resolved, second.resolved);
        assert!(first.resolved.contains_key("learning_rate") && first.resolved.contains_key("threads"));
        assert!(!first.resolved.contains_key("resume") && !first.resolved.contains_key("config"));
    }

    #[test]
    fn a_seed_beyond_the_integers_of_toml_stays_itself() {
        for seed in [i64::MAX as u64, i64::MAX as u64 + 2, u64::MAX] {
            let line = format!("align dpo --model m --data a --output-dir o --seed {seed}");
            let first = parse(&words(&line)).unwrap();
            let (_folder, path) = file(&first.resolved.to_string());
            let second = parse(&words(&format!("align dpo --config {path}"))).unwrap();
            let Command::Dpo(dpo) = &second.command else { panic!("not dpo") };
            assert_eq!(dpo.train.seed, seed);
            assert_eq!(first.resolved, second.resolved);
        }
    }

    #[test]
    fn defaults_differ_by_command() {
        let rate = |command: &str| {
            let settings =
                parse(&words(&format!("align {command} --model m --data a --output-dir o"))).unwrap();
            settings.resolved.get("learning_rate").and_then(toml::Value::as_float).unwrap()
        };
        assert_eq!((rate("sft"), rate("dpo")), (2e-5, 1e-6));
    }

    #[test]
    fn mistakes_in_the_file_are_named_by_their_place() {
        for (text, message, hint) in [
            ("\nbetta = 1\n", "run.toml:2: unknown key betta", "did you mean beta?"),
            ("batch-size = 1\n", "run.toml:1: unknown key batch-size", "did you mean batch_size?"),
            ("aggregation = \"x\"\n", "run.toml:1: unknown key aggregation", "a key of align sft"),
            ("config = \"x\"\n", "run.toml:1: config cannot be a key", "leave this line out"),
            ("reward_url = 1\n", "run.toml:1: reward_url is not in this version yet", ""),
            ("beta = \"x\"\n", "run.toml:1: beta = x: expected a number", ""),
            ("beta = true\n", "run.toml:1: beta = true: expected a number or a string", ""),
            ("resume = 3\n", "run.toml:1: resume = 3: expected true or false", ""),
            ("[train]\nbeta = 1\n", "run.toml:1: unknown key train", ""),
            ("seed = -1\n", "run.toml:1: seed = -1: expected a whole number", ""),
            ("loss_type = \"ipoo\"\n", "run.toml:1: loss_type = ipoo: there is no such choice", "sigmoid"),
            ("beta = 1\nbeta = 2\n", "run.toml:2: duplicate key", "TOML"),
            ("beta 1\n", "run.toml:1:", "TOML"),
            (
                "beta = nan\nmodel = \"m\"\ndata = \"a\"\noutput_dir = \"o\"\n",
                "run.toml:1: beta = NaN: expected a finite",
                "",
            ),
        ] {
            let error = refused(text);
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(error.to_string().contains(message), "{text}: {error}");
            assert!(error.hints().join("\n").contains(hint), "{text}: {:?}", error.hints());
        }
    }
}
