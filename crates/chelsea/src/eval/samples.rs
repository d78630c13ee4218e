//! Samples as the flags ask for them.

use crate::cli::{
    ArithmeticArgs, ContinuationArgs, CopyingArgs, GenerateArgs, KindArg, LookupArg, LookupArgs, NeedlesArgs, OnError,
    RulesArgs, RunFilesArgs, StreamArgs, ValuesArg, VariablesArgs, WordsArgs,
};
use crate::{documents, output};
use anyhow::{Context as _, Result, bail};
use chelsea_eval::Sample;
use chelsea_eval::tasks::arithmetic::{self, ArithmeticOptions};
use chelsea_eval::tasks::continuation::{self, ContinuationOptions};
use chelsea_eval::tasks::copying::{self, CopyingOptions};
use chelsea_eval::tasks::jsonl::{self, JsonlOptions};
use chelsea_eval::tasks::lookup::{self, Lookup, LookupOptions};
use chelsea_eval::tasks::needles::{self, Kind, NeedleOptions, Values};
use chelsea_eval::tasks::rules::{self, RuleOptions};
use chelsea_eval::tasks::stream::{self, StreamOptions};
use chelsea_eval::tasks::variables::{self, VariableOptions};
use chelsea_eval::tasks::words::{self, WordOptions};
use chelsea_eval::tasks::{Haystack, HaystackError};
use chelsea_model::tokenizer::Tokenizer;
use std::path::Path;

/// A text measured for the model under test, and which samples are to be made of it.
pub struct Source<'a> {
    haystack: Haystack,
    tokenizer: &'a Tokenizer,
    args: &'a GenerateArgs,
}

impl<'a> Source<'a> {
    /// Measures a text.
    pub fn new(text: &str, tokenizer: &'a Tokenizer, args: &'a GenerateArgs) -> Result<Self> {
        let haystack = Haystack::new(text, &|text| encode(tokenizer, text))?;
        Ok(Source { haystack, tokenizer, args })
    }

    /// `make` for every length and number.
    fn each(&self, make: impl Fn(usize, u64) -> Result<Sample, HaystackError>) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for &tokens in &self.args.tokens {
            for index in 0..u64::from(self.args.samples) {
                samples.push(make(tokens, self.args.first_sample + index)?);
            }
        }
        Ok(samples)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, HaystackError> {
        encode(self.tokenizer, text)
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, HaystackError> {
    tokenizer.encode(text, false).map_err(|e| HaystackError::Tokens(e.to_string()))
}

/// `chelsea eval quick`: every generated task as its own verb makes it when nothing is said; of the lists to look things up in,
/// those of keys and values, and no rules: whether small models keep any is another question.
pub fn quick(source: &Source<'_>, seed: u64) -> Result<Vec<Sample>> {
    let haystack = &source.haystack;
    let mut samples = Vec::new();
    for (kind, values) in
        [(Kind::MultiKey, Values::Digits(7)), (Kind::MultiValue, Values::Digits(7)), (Kind::MultiKey, Values::Uuids)]
    {
        samples.extend(source.each(|tokens, index| {
            let options = NeedleOptions { tokens, kind, needles: 6, values, depth: None, seed };
            needles::sample(haystack, &options, index)
        })?);
    }
    samples.extend(source.each(|tokens, index| {
        variables::sample(haystack, &VariableOptions { tokens, seed, ..VariableOptions::default() }, index)
    })?);
    samples.extend(source.each(|tokens, index| {
        let options = WordOptions { tokens, seed, ..WordOptions::default() };
        words::sample(haystack, &options, index, &|text| source.encode(text))
    })?);
    samples.extend(source.each(|tokens, index| {
        let options = CopyingOptions { tokens, seed, ..CopyingOptions::default() };
        copying::sample(haystack, &options, index, &|text| source.encode(text))
    })?);
    samples.extend(source.each(|tokens, index| {
        let options = LookupOptions { tokens, seed, ..LookupOptions::default() };
        lookup::sample(haystack, &options, index, &|text| source.encode(text))
    })?);
    samples.extend(source.each(|tokens, index| {
        continuation::sample(haystack, &ContinuationOptions { tokens, seed, ..ContinuationOptions::default() }, index)
    })?);
    Ok(samples)
}

/// `chelsea eval needles`.
pub fn needles(args: &NeedlesArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let kind = match args.kind {
        KindArg::Single => Kind::Single,
        KindArg::MultiKey => Kind::MultiKey,
        KindArg::MultiValue => Kind::MultiValue,
        KindArg::MultiQuery => Kind::MultiQuery,
    };
    let values = match args.values {
        ValuesArg::Digits => Values::Digits(args.digits as usize),
        ValuesArg::Words => Values::Words,
        ValuesArg::Uuids => Values::Uuids,
    };
    let depths: Vec<Option<f64>> = match kind {
        Kind::Single => args.depths.iter().map(|d| Some(d / 100.0)).collect(),
        _ => vec![None],
    };
    let seed = args.compare.seed;
    let mut samples = Vec::new();
    for depth in depths {
        samples.extend(source.each(|tokens, index| {
            let options = NeedleOptions { tokens, kind, needles: args.needles, values, depth, seed };
            needles::sample(&source.haystack, &options, index)
        })?);
    }
    Ok(samples)
}

/// `chelsea eval copying`.
pub fn copying(args: &CopyingArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let &CopyingArgs { passages, cue, target, .. } = args;
    let seed = args.compare.seed;
    source.each(|tokens, index| {
        let options = CopyingOptions { tokens, passages, cue, target, seed };
        copying::sample(&source.haystack, &options, index, &|text| source.encode(text))
    })
}

/// `chelsea eval variables`.
pub fn variables(args: &VariablesArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let &VariablesArgs { chains, hops, .. } = args;
    let seed = args.compare.seed;
    source.each(|tokens, index| {
        variables::sample(&source.haystack, &VariableOptions { tokens, chains, hops, seed }, index)
    })
}

/// `chelsea eval words`.
pub fn words(args: &WordsArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let (common, seed) = (args.common, args.compare.seed);
    source.each(|tokens, index| {
        let options = WordOptions { tokens, common, seed };
        words::sample(&source.haystack, &options, index, &|text| source.encode(text))
    })
}

/// `chelsea eval lookup`.
pub fn lookup(args: &LookupArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let (questions, seed) = (args.questions, args.compare.seed);
    let mut samples = Vec::new();
    for kind in &args.kinds {
        let kind = match kind {
            LookupArg::Pairs => Lookup::Pairs,
            LookupArg::Ends => Lookup::Ends,
            LookupArg::Numbers => Lookup::Numbers,
        };
        samples.extend(source.each(|tokens, index| {
            let options = LookupOptions { tokens, kind, questions, seed };
            lookup::sample(&source.haystack, &options, index, &|text| source.encode(text))
        })?);
    }
    Ok(samples)
}

/// `chelsea eval rules`.
pub fn rules(args: &RulesArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let (rules, seed) = (args.rules, args.compare.seed);
    source.each(|tokens, index| rules::sample(&source.haystack, &RuleOptions { tokens, rules, seed }, index))
}

/// `chelsea eval arithmetic`.
pub fn arithmetic(args: &ArithmeticArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let &ArithmeticArgs { steps, questions, .. } = args;
    let seed = args.compare.seed;
    source.each(|tokens, index| {
        let options = ArithmeticOptions { tokens, steps, questions, seed };
        arithmetic::sample(&options, index, &|text| source.encode(text))
    })
}

/// `chelsea eval continuation`.
pub fn continuation(args: &ContinuationArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let (target, seed) = (args.target, args.compare.seed);
    source.each(|tokens, index| {
        continuation::sample(&source.haystack, &ContinuationOptions { tokens, target, seed }, index)
    })
}

/// `chelsea eval stream`.
pub fn stream(args: &StreamArgs, source: &Source<'_>) -> Result<Vec<Sample>> {
    let (pieces, seed) = (args.pieces, args.compare.seed);
    source.each(|tokens, index| stream::sample(&source.haystack, &StreamOptions { tokens, pieces, seed }, index))
}

/// `chelsea eval run`: the samples of all files, and how many lines were left out.
pub fn files(args: &RunFilesArgs) -> Result<(Vec<Sample>, usize)> {
    let options = JsonlOptions {
        samples: args.samples.map(|n| n as usize),
        seed: args.compare.seed,
        metric: args.metric,
        max_tokens: args.max_tokens.map(|n| n as usize),
    };
    let (mut samples, mut skipped) = (Vec::new(), 0);
    for file in &args.files {
        for sample in jsonl::read(file, &options)? {
            match sample {
                Ok(sample) => samples.push(sample),
                Err(error) if args.compare.on_error == OnError::Skip => {
                    tracing::warn!("left out: {error}");
                    skipped += 1;
                }
                Err(error) => bail!("{error} (--on-error skip leaves such lines out)"),
            }
        }
    }
    if samples.is_empty() {
        bail!("there is nothing to measure: no line of the files is a sample");
    }
    Ok((samples, skipped))
}

/// The text of a file, of all .txt files of a folder, or of the essays.
pub fn haystack(path: Option<&Path>, quiet: bool) -> Result<String> {
    let fetched;
    let path = match path {
        Some(path) => path,
        None => {
            let options = chelsea_hub::Options::from_env();
            fetched = chelsea_hub::fetch_data("essays", &options, &mut output::Downloads::new(quiet))?;
            &fetched
        }
    };
    if !path.is_dir() {
        return documents::read_whole(path).context("the haystack");
    }
    let mut files: Vec<_> = std::fs::read_dir(path)
        .with_context(|| format!("cannot read the folder {}", path.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let texts: Vec<String> = files.iter().map(|file| documents::read_whole(file)).collect::<Result<_>>()?;
    Ok(texts.join("\n\n"))
}
