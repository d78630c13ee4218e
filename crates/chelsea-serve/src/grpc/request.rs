//! From a request in vLLM's shape to what the engine is asked. What is not honoured is refused by its name.

use super::status::{refused, status};
use super::{KEY, Service};
use crate::answer::Ask;
use crate::fields::MAX_STOPS;
use crate::form::{self, Form, Schema};
use crate::prompt;
use crate::{cut, documents};
use chelsea_engine::scheduler::RequestError;
use chelsea_engine::{GenerateOptions, Sampling};
use serde_json::Value;
use std::sync::Arc;
use tonic::Status;
use vllm_proto::candidate_tokens::Select;
use vllm_proto::decoding_parameters::StructuredOutput;
use vllm_proto::generate_request::Prompt;
use vllm_proto::{
    CandidateTokens, DecodingParameters, GenerateRequest, KvCacheParameters, ResponseOptions, StoppingCriteria,
};
use xxhash_rust::xxh3::xxh3_64;

/// Most of the likeliest tokens that are told for each.
const MAX_TOP: usize = 20;

/// Most ids of tokens that end an answer.
const MAX_STOP_IDS: usize = 256;

/// A request that was understood.
pub(super) struct Understood {
    pub(super) ask: Ask,
    /// The tokens of its prompt.
    pub(super) prompt: Vec<u32>,
    pub(super) told: Told,
    /// What the caller says of caches that are handed over, as it stands in the request.
    pub(super) transfer: Option<prost_types::Struct>,
}

/// What is told of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) text: bool,
    pub(super) token_ids: bool,
    pub(super) logprobs: bool,
    pub(super) top: usize,
    pub(super) prompt_ids: bool,
    pub(super) prompt_logprobs: bool,
    pub(super) prompt_top: usize,
    pub(super) stop_strings: bool,
}

/// Understands a request. Encodes its prompt, which may take a while.
pub(super) fn understand(service: &Service, request: GenerateRequest) -> Result<Understood, Status> {
    let serving = &service.serving;
    crate::openai::chat::check_model(serving, Some(&request.model)).map_err(status)?;
    if !request.media.is_empty() {
        return Err(refused("media", "was given, and this model reads text alone"));
    }
    if !request.lora_name.is_empty() {
        return Err(refused("lora_name", "was given, and this server has no adapters"));
    }
    if request.priority != 0 {
        return Err(refused("priority", "must be 0: turns are shared out evenly"));
    }
    let response = request.response.unwrap_or_default();
    let told = told(&response, request.stopping.as_ref().is_some_and(|stopping| stopping.include_stop_strings))?;
    let mut prompt = match request.prompt {
        Some(Prompt::TokenIds(tokens)) => tokens.ids,
        Some(Prompt::Text(text)) => prompt::raw(&serving.tokenizer, &text).map_err(status)?,
        None => return Err(refused("prompt", "is missing: give `text` or `token_ids`")),
    };
    let most = request.truncate_prompt_tokens as usize;
    if most > 0 && prompt.len() > most {
        // The last ones, as vLLM does.
        prompt.drain(..prompt.len() - most);
    }
    // Before anything is done with its tokens: what generates nothing may be as long as the context.
    let limit = serving.context();
    if prompt.len() > limit {
        return Err(status(RequestError::Context { prompt: prompt.len(), limit }.into()));
    }
    let vocab = serving.model.config().vocab;
    if let Some(token) = prompt.iter().find(|&&token| token as usize >= vocab) {
        return Err(refused("token_ids", &format!("holds {token}, which is outside the vocabulary of {vocab} tokens")));
    }
    let decoding = request.decoding.unwrap_or_default();
    let stopping = request.stopping.unwrap_or_default();
    let random = request.sampling.unwrap_or_default();
    if random.num_sequences > 1 {
        return Err(refused("num_sequences", "must be 1: ask once for each answer"));
    }
    let stop_tokens = stops(&stopping, vocab)?;
    if stopping.max_new_tokens > 0 && stopping.min_new_tokens > stopping.max_new_tokens {
        return Err(refused("min_new_tokens", "is more than `max_new_tokens`"));
    }
    if stopping.min_new_tokens > 0 && !stopping.stop_strings.is_empty() {
        return Err(refused("min_new_tokens", "cannot be given together with `stop_strings`"));
    }
    let form = structured(decoding.structured_output.clone())?;
    if stopping.min_new_tokens > 0 && form.is_some() {
        return Err(refused("min_new_tokens", "cannot be given together with a structured output"));
    }
    let sampling = Sampling {
        temperature: request.temperature.unwrap_or(0.0),
        top_k: random.top_k as usize,
        top_p: if random.top_p == 0.0 { 1.0 } else { random.top_p },
        min_p: random.min_p,
        seed: random.seed.map_or_else(rand::random, |seed| seed as u64),
        ..penalties(&decoding)?
    };
    sampling.validate().map_err(|error| Status::invalid_argument(error.to_string()))?;
    let pieces = cut::at_turns(&serving.tokenizer, &prompt);
    let thought = prompt::thought(&serving.tokenizer, &pieces);
    let generate = GenerateOptions {
        max_tokens: (stopping.max_new_tokens > 0).then_some(stopping.max_new_tokens as usize),
        min_tokens: stopping.min_new_tokens as usize,
        sampling,
        stop: stopping.stop_strings,
        stop_tokens,
        ignore_eos: stopping.ignore_eos,
        grammar: form::grammar(serving, thought, form.as_ref(), None).map_err(status)?,
    };
    let kv = request.kv.unwrap_or_default();
    let key = key(&kv);
    let prompt_logprobs = told.prompt_logprobs.then_some(told.prompt_top.max(1));
    let (pieces, session) = if prompt_logprobs.is_some() {
        (vec![Arc::from(prompt.as_slice())], serving.settings.session.clone())
    } else {
        documents::lay_out(serving, &crate::fields::KvFields::default(), pieces).map_err(status)?
    };
    let logprobs = told.logprobs.then_some(told.top.max(1));
    let ask =
        Ask { pieces, generate, session, key, logprobs, prompt_logprobs, apart: kv.bypass_prefix_cache, layout: false };
    Ok(Understood { ask, prompt, told, transfer: kv.kv_transfer_params })
}

/// The tokens that end an answer, each once. They are looked at for every token of it.
fn stops(stopping: &StoppingCriteria, vocab: usize) -> Result<Vec<u32>, Status> {
    let (strings, ids) = (&stopping.stop_strings, &stopping.stop_token_ids);
    if strings.len() > MAX_STOPS {
        return Err(refused("stop_strings", &format!("has {} texts, and {MAX_STOPS} may be", strings.len())));
    }
    if ids.len() > MAX_STOP_IDS {
        return Err(refused("stop_token_ids", &format!("has {} ids, and {MAX_STOP_IDS} may be", ids.len())));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(refused(
            "stop_token_ids",
            &format!("holds {id}, which is outside the vocabulary of {vocab} tokens"),
        ));
    }
    let mut ids = ids.clone();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Whose request it is: those of one salt share checkpoints.
fn key(kv: &KvCacheParameters) -> u64 {
    if kv.cache_salt.is_empty() { KEY } else { xxh3_64(kv.cache_salt.as_bytes()) | 1 }
}

fn penalties(decoding: &DecodingParameters) -> Result<Sampling, Status> {
    if !decoding.allowed_token_ids.is_empty() {
        return Err(refused("allowed_token_ids", "is not supported here: ask for a choice or a regular expression"));
    }
    let bias: Vec<(u32, f32)> = decoding.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect();
    let repeat = decoding.repetition_penalty;
    Ok(Sampling {
        presence_penalty: decoding.presence_penalty,
        frequency_penalty: decoding.frequency_penalty,
        repeat_penalty: if repeat == 0.0 { 1.0 } else { repeat },
        bias: bias.into(),
        ..Sampling::default()
    })
}

fn structured(output: Option<StructuredOutput>) -> Result<Option<Form>, Status> {
    let schema = |value| Form::Json(Schema { value, strict: false });
    Ok(match output {
        None | Some(StructuredOutput::JsonObject(false)) => None,
        Some(StructuredOutput::JsonObject(true)) => Some(Form::Json(Schema::object())),
        Some(StructuredOutput::Json(text)) => {
            let value: Value = serde_json::from_str(&text)
                .map_err(|error| refused("json", &format!("is a schema that is no JSON: {error}")))?;
            Some(schema(value))
        }
        Some(StructuredOutput::Regex(pattern)) => Some(Form::Pattern(pattern)),
        Some(StructuredOutput::Choice(choice)) if choice.choices.is_empty() => {
            return Err(refused("choice", "needs at least one text to choose"));
        }
        Some(StructuredOutput::Choice(choice)) => Some(Form::Choice(choice.choices)),
        Some(StructuredOutput::Grammar(_)) => {
            return Err(refused(
                "grammar",
                "is not supported here: give a JSON schema, a choice or a regular expression",
            ));
        }
        Some(StructuredOutput::StructuralTag(_)) => {
            return Err(refused("structural_tag", "is not supported here: give a JSON schema"));
        }
    })
}

fn told(response: &ResponseOptions, stop_strings: bool) -> Result<Told, Status> {
    if response.skip_special_tokens == Some(false) {
        return Err(refused("skip_special_tokens", "must be true: texts are told without special tokens"));
    }
    Ok(Told {
        text: response.output_text.unwrap_or(true),
        token_ids: response.output_token_ids,
        logprobs: response.output_logprobs,
        top: top("output_candidates", response.output_candidates.as_ref())?,
        prompt_ids: response.prompt_token_ids,
        prompt_logprobs: response.prompt_logprobs,
        prompt_top: top("prompt_candidates", response.prompt_candidates.as_ref())?,
        stop_strings,
    })
}

/// How many of the likeliest tokens are asked for.
fn top(field: &str, candidates: Option<&CandidateTokens>) -> Result<usize, Status> {
    match candidates.and_then(|candidates| candidates.select.as_ref()) {
        None | Some(Select::All(false)) => Ok(0),
        Some(Select::TopN(n)) if *n as usize <= MAX_TOP => Ok(*n as usize),
        Some(Select::TopN(_)) => Err(refused(field, &format!("asks for more than {MAX_TOP}, which is the most"))),
        Some(Select::TokenIds(_) | Select::All(true)) => {
            Err(refused(field, &format!("can ask for the likeliest tokens alone, up to {MAX_TOP}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_one_salt_share_checkpoints_and_no_others_do() {
        let salted = |salt: &str| key(&KvCacheParameters { cache_salt: salt.into(), ..KvCacheParameters::default() });
        assert_eq!(salted(""), KEY);
        assert_eq!(salted("a"), salted("a"));
        assert_ne!(salted("a"), salted("b"));
    }

    #[test]
    fn each_token_that_ends_an_answer_is_looked_for_once() {
        let of = |ids: Vec<u32>| stops(&StoppingCriteria { stop_token_ids: ids, ..StoppingCriteria::default() }, 100);
        assert_eq!(of(vec![5, 1, 5, 99, 1]).unwrap(), [1, 5, 99]);
        assert!(of(vec![100]).unwrap_err().message().contains("`stop_token_ids`"));
        assert!(of(vec![1; 257]).is_err() && of(vec![1; 256]).is_ok());
    }

    #[test]
    fn what_cannot_be_told_is_refused_by_its_name() {
        let all = CandidateTokens { select: Some(Select::All(true)) };
        assert!(top("output_candidates", Some(&all)).unwrap_err().message().contains("`output_candidates`"));
        let many = CandidateTokens { select: Some(Select::TopN(21)) };
        assert!(top("prompt_candidates", Some(&many)).unwrap_err().message().contains("more than 20"));
        let some = CandidateTokens { select: Some(Select::TopN(3)) };
        assert_eq!(top("", Some(&some)).unwrap(), 3);
        let raw = ResponseOptions { skip_special_tokens: Some(false), ..ResponseOptions::default() };
        assert!(told(&raw, false).is_err());
    }
}
