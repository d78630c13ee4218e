//! An answer's events in vLLM's shape.

use super::request::Told;
use chelsea_engine::Finish;
use chelsea_engine::scheduler::{Logprobs, Outcome, Sampled};
use chelsea_model::tokenizer::Tokenizer;
use vllm_proto::candidate_token_info::TokenInfo;
use vllm_proto::finish_info::{FinishReason, StopReason};
use vllm_proto::{CandidateTokenInfo, FinishInfo, GenerateResponse, PromptInfo, SequenceOutput};

/// Gathers what is told of an answer.
pub(super) struct Teller {
    told: Told,
    prompt: Vec<u32>,
    /// The last token that was told.
    last: Option<u32>,
    tokens: u32,
}

impl Teller {
    pub(super) fn new(told: Told, prompt: Vec<u32>) -> Self {
        Teller { told, prompt, last: None, tokens: 0 }
    }

    /// Whether how likely the prompt's tokens were is to be told, which is known once it was read.
    pub(super) fn scores_prompt(&self) -> bool {
        self.told.prompt_logprobs
    }

    /// What is told of the prompt, before everything else.
    pub(super) fn prompt(&self, scores: &[Logprobs]) -> GenerateResponse {
        let mut info = PromptInfo { num_prompt_tokens: self.prompt.len() as u32, ..PromptInfo::default() };
        if self.told.prompt_ids || self.told.prompt_logprobs {
            info.token_ids.clone_from(&self.prompt);
        }
        if self.told.prompt_logprobs {
            // Nothing could have foretold the first token: it has a place all the same.
            info.logprobs.push(0.0);
            info.ranks.push(0);
            info.candidate_tokens.push(CandidateTokenInfo::default());
            for (&token, score) in self.prompt.iter().skip(1).zip(scores) {
                let (rank, others) = ranked(token, score, self.told.prompt_top);
                info.logprobs.push(score.chosen);
                info.ranks.push(rank);
                info.candidate_tokens.push(others);
            }
        }
        GenerateResponse { prompt_info: Some(info), outputs: None }
    }

    /// What is told of a token.
    pub(super) fn token(&mut self, sampled: Sampled) -> GenerateResponse {
        let Sampled { token, text, logprobs } = sampled;
        self.last = Some(token);
        self.tokens += 1;
        let mut output = SequenceOutput { num_tokens: 1, ..SequenceOutput::default() };
        if self.told.text {
            output.text = text;
        }
        if self.told.token_ids {
            output.token_ids.push(token);
        }
        if let Some(logprobs) = logprobs {
            let (rank, others) = ranked(token, &logprobs, self.told.top);
            output.logprobs.push(logprobs.chosen);
            output.ranks.push(rank);
            output.candidate_tokens.push(others);
        }
        GenerateResponse { prompt_info: None, outputs: Some(output) }
    }

    /// What is told at the end.
    pub(super) fn done(
        &self,
        outcome: &Outcome,
        tokenizer: &Tokenizer,
        transfer: Option<prost_types::Struct>,
    ) -> GenerateResponse {
        let (reason, stop) = match outcome.finish {
            Finish::MaxTokens | Finish::Context => (FinishReason::Length, None),
            Finish::Cancelled => (FinishReason::Aborted, None),
            Finish::Complete => (FinishReason::Stop, None),
            Finish::StopString => (FinishReason::Stop, outcome.stop.clone().map(StopReason::StopString)),
            Finish::EndOfTurn => (
                FinishReason::Stop,
                self.last.map(|token| match tokenizer.ends_turn(token) {
                    true => StopReason::EosTokenId(token),
                    false => StopReason::StopTokenId(token),
                }),
            ),
        };
        let text = outcome.stop.clone().filter(|_| self.told.stop_strings && self.told.text).unwrap_or_default();
        self.end(reason, stop, text, transfer)
    }

    /// What is told when the caller ended it.
    pub(super) fn aborted(&self) -> GenerateResponse {
        self.end(FinishReason::Aborted, None, String::new(), None)
    }

    fn end(
        &self,
        reason: FinishReason,
        stop_reason: Option<StopReason>,
        text: String,
        kv_transfer_params: Option<prost_types::Struct>,
    ) -> GenerateResponse {
        let finish = FinishInfo {
            num_output_tokens: self.tokens,
            finish_reason: reason.into(),
            stop_reason,
            kv_transfer_params,
            ..FinishInfo::default()
        };
        let outputs = SequenceOutput { text, finish_info: Some(finish), ..SequenceOutput::default() };
        GenerateResponse { prompt_info: None, outputs: Some(outputs) }
    }
}

/// A token's rank, and the likeliest ones beside it with theirs. One that is not among those that are known has the rank
/// after them.
fn ranked(token: u32, logprobs: &Logprobs, top: usize) -> (u32, CandidateTokenInfo) {
    let found = logprobs.top.iter().position(|&(id, _)| id == token);
    let rank = found.unwrap_or(logprobs.top.len()) as u32 + 1;
    let listed = logprobs.top.iter().take(top).enumerate().filter(|(_, (id, _))| *id != token);
    let tokens = listed.map(|(i, &(id, logprob))| TokenInfo { id, logprob, rank: i as u32 + 1 }).collect();
    (rank, CandidateTokenInfo { tokens })
}

/// One answer out of all that was told of it.
pub(super) fn gathered(all: Vec<GenerateResponse>) -> GenerateResponse {
    let mut whole = GenerateResponse::default();
    let mut gathered = SequenceOutput::default();
    for GenerateResponse { prompt_info, outputs } in all {
        whole.prompt_info = whole.prompt_info.or(prompt_info);
        let Some(output) = outputs else { continue };
        gathered.text += &output.text;
        gathered.num_tokens += output.num_tokens;
        gathered.token_ids.extend(output.token_ids);
        gathered.logprobs.extend(output.logprobs);
        gathered.ranks.extend(output.ranks);
        gathered.candidate_tokens.extend(output.candidate_tokens);
        gathered.finish_info = gathered.finish_info.or(output.finish_info);
    }
    whole.outputs = Some(gathered);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_with_its_rank_and_apart_from_the_others() {
        let logprobs = Logprobs { chosen: -2.0, top: vec![(7, -0.5), (3, -2.0), (9, -3.0)] };
        let (rank, others) = ranked(3, &logprobs, 3);
        let ids = |info: &CandidateTokenInfo| info.tokens.iter().map(|t| (t.id, t.rank)).collect::<Vec<_>>();
        assert_eq!((rank, ids(&others)), (2, vec![(7, 1), (9, 3)]));
        let (rank, others) = ranked(100, &logprobs, 1);
        assert_eq!((rank, ids(&others)), (4, vec![(7, 1)]));
    }
}
