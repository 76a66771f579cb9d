//! What the doctor finds, in files made for it and in public ones.

use crate::common;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use align_data::{DataConfig, DoctorReport, Format, Inspection, Unit, inspect};

fn look(files: &[PathBuf], eval_files: &[PathBuf], config: &DataConfig, model: bool) -> DoctorReport {
    let (tokenizer, template) = common::tokenizer("plain");
    let model = model.then_some((&tokenizer, Some(&template)));
    inspect(&Inspection { files, eval_files, model, config, shown: 2 }).unwrap()
}

#[test]
fn lengths_and_cuts_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let row = |n: usize| format!("{{\"prompt\": \"{}\", \"completion\": \"bbb\"}}\n", "a".repeat(n));
    let file = common::write(dir.path(), "rows.jsonl", row(1) + &row(4) + &row(5) + &row(20));
    let report = look(std::slice::from_ref(&file), &[], &DataConfig::default(), false);
    let found = &report.files[0];
    assert_eq!((report.unit, found.report.lengths.total.max), (Unit::Bytes, 23));
    let bins: Vec<_> = found.histogram.iter().map(|bin| (bin.from, bin.below, bin.rows)).collect();
    assert_eq!(bins, [(4, 8, 2), (8, 16, 1), (16, 32, 1)]);
    assert_eq!((found.cuts, found.examples.len()), (None, 0));

    // With a model the lengths are tokens, and the doctor says what a training run would do.
    let config = DataConfig { max_length: Some(6), ..Default::default() };
    let found = &look(std::slice::from_ref(&file), &[], &config, true).files[0];
    let cuts = found.cuts.unwrap();
    let (tokenizer, template) = common::tokenizer("plain");
    let trained = align_data::load_language(&[file], &tokenizer, Some(&template), &config).unwrap().1;
    assert_eq!((cuts.cut, cuts.dropped), (trained.cut, trained.dropped_no_room));
    assert!(cuts.cut > 0 && cuts.tokens >= cuts.cut);
    assert_eq!(found.examples.len(), 2);
    assert_eq!(found.examples[0].prompt, "a");
    let answer = &found.examples[0].answers[0][0];
    assert_eq!((answer.text.as_str(), answer.trained), ("bbb</s>", true));
}

#[test]
fn repeated_rows_ties_labels_and_scores_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let pair = |p: &str, c: &str, r: &str| {
        format!("{{\"prompt\": \"{p}\", \"chosen\": \"{c}\", \"rejected\": \"{r}\"}}\n")
    };
    let train = pair("a", "b", "c") + &pair("a", "b", "b") + &pair("a", "b", "c");
    let more = pair("a", "b", "c") + &pair("x", "b", "c");
    let eval = pair("x", "b", "c") + &pair("x", "b", "d") + &pair("y", "b", "c");
    let write = |name: &str, text: &str| common::write(dir.path(), name, text);
    let report = look(
        &[write("train", &train), write("more", &more)],
        &[write("eval", &eval)],
        &DataConfig::default(),
        false,
    );
    assert!(report.trainable());
    let repeats = |list: &[align_data::Repeat]| -> Vec<(usize, String)> {
        let of = |repeat: &align_data::Repeat| repeat.of.to_string().rsplit('/').next().unwrap().to_owned();
        list.iter().map(|repeat| (repeat.row.row, of(repeat))).collect()
    };
    let [train, more] = report.files.as_slice() else { panic!("two files") };
    assert_eq!(train.identical_answers, [2]);
    assert_eq!(repeats(&train.duplicates), [(3, "train:1".into())]);
    assert_eq!(repeats(&more.duplicates), [(1, "train:1".into())]);
    assert!(report.eval_files[0].duplicates.is_empty());
    let overlap = report.overlap.as_ref().unwrap();
    assert_eq!(repeats(&overlap.rows), [(1, "more:2".into())]);
    assert_eq!(repeats(&overlap.prompts), [(2, "more:2".into())]);
    assert_eq!(
        serde_json::from_str::<DoctorReport>(&serde_json::to_string(&report).unwrap()).unwrap(),
        report
    );

    let labels = "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":1}\n".repeat(3)
        + "{\"prompt\":\"a\",\"completion\":\"c\",\"label\":false}\n";
    let scores = "prompt,completion,score\na,b,1\na,c,-2\na,d,4\n";
    let ranks = "{\"prompt\":\"a\",\"completions\":[\"b\",\"c\"],\"ranks\":[1,1]}\n";
    let files = [write("labels", &labels), write("scores", scores), write("ranks", ranks)];
    let report = look(&files, &[], &DataConfig::default(), false);
    let [labels, scores, ranks] = report.files.as_slice() else { panic!("three files") };
    assert_eq!(labels.labels.map(|l| (l.good, l.bad)), Some((3, 1)));
    assert_eq!(scores.scores.map(|s| (s.count, s.min, s.mean, s.max)), Some((3, -2.0, 1.0, 4.0)));
    assert_eq!(ranks.all_tied, [1]);
    assert_eq!((report.overlap.is_none(), labels.scores, scores.labels), (true, None, None));
}

#[test]
fn files_that_cannot_be_used_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| common::write(dir.path(), name, text);
    let files = [
        write("other", "{\"question\": \"a\", \"answer\": \"b\"}\n"),
        write("empty", ""),
        write("silent", "{\"text\": \" \"}\n{\"text\": \"\"}\n{\n"),
        write("prose", "Once upon a time.\nThere was a file."),
        dir.path().join("absent"),
        write("good", "{\"text\": \"a b\"}\n"),
    ];
    let report = look(&files, &[], &DataConfig::default(), false);
    assert!(!report.trainable());
    let trouble = |i: usize| report.files[i].trouble.as_ref().unwrap();
    assert!(trouble(0).hint.as_ref().unwrap().contains("prompt=question,completion=answer"));
    assert!(trouble(0).message.contains("other:1"), "{}", trouble(0).message);
    assert!(trouble(1).message.contains("no rows"), "{}", trouble(1).message);
    assert!(trouble(2).message.contains("none of the 3 rows"), "{}", trouble(2).message);
    assert_eq!(report.files[2].report.bad.iter().map(|b| b.source.row).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(trouble(3).message.contains("plain text"), "{}", trouble(3).message);
    assert!(trouble(4).message.contains("absent"), "{}", trouble(4).message);
    assert!(report.files[5].trouble.is_none());
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

#[test]
fn every_public_file_gets_an_answer() {
    let Some(root) = common::real_data("") else { return };
    let mut files = vec![];
    collect(&root, &mut files);
    files.sort();
    let (mut good, mut csv, mut formats) = (0, 0, BTreeSet::new());
    for file in files {
        let short = file.strip_prefix(&root).unwrap().display().to_string();
        let report = look(&[file], &[], &DataConfig::default(), true);
        let [found] = report.files.as_slice() else { panic!("one file") };
        match &found.trouble {
            None => {
                let format = found.report.files[0].format;
                println!(
                    "{short}: {format:?}, {} of {} rows, {} repeated",
                    found.report.kept,
                    found.report.rows,
                    found.duplicates.len()
                );
                assert!(found.report.kept + found.report.bad_count == found.report.rows, "{short}");
                let counted: usize = found.histogram.iter().map(|bin| bin.rows).sum();
                assert_eq!(counted, found.report.kept, "{short}");
                assert!(!found.examples.is_empty() && found.serves.is_some(), "{short}");
                formats.insert(format!("{format:?}"));
                good += 1;
            }
            Some(trouble) => {
                println!("{short}: {} / {:?}", trouble.message, trouble.hint);
                // Rows of another layout get the nearest one; other files what they look like.
                assert!(trouble.hint.is_some() || trouble.message.len() > short.len() + 20, "{short}");
            }
        }
        csv += usize::from(short.ends_with(".csv") && found.report.rows > 0);
        if short == "kto/kto_en_demo.json" {
            assert_eq!(found.report.files[0].format, Format::MessagesUnpaired);
            assert!(found.labels.is_some_and(|labels| labels.good > 0 && labels.bad > 0));
        }
    }
    assert!(good >= 10 && csv == 7, "{good} usable files, {csv} CSV files with rows");
    for format in [
        "Preference",
        "ImplicitPreference",
        "Alpaca",
        "AlpacaPreference",
        "ShareGptPreference",
        "MessagesUnpaired",
        "Text",
    ] {
        assert!(formats.contains(format), "no file was read as {format}: {formats:?}");
    }
}
