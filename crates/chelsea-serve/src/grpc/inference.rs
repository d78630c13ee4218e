//! `vllm.Inference`: prompts in, tokens and text out.

use super::request::{self, Understood};
use super::status::status;
use super::told::{Teller, gathered};
use super::{Named, Service, Shared};
use crate::answer::{Heard, Running};
use crate::router::aside;
use crate::transfer;
use futures_util::{Stream, StreamExt as _};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use vllm_proto::inference_server::Inference;
use vllm_proto::{GenerateRequest, GenerateResponse};

/// What a stream tells.
type Told = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

/// An answer on its way. Dropping it ends the request.
struct Answering {
    service: Arc<Service>,
    running: Running,
    teller: Teller,
    handing: Option<transfer::Handing>,
    named: Option<Named>,
    aborted: Option<oneshot::Receiver<()>>,
    prompt_told: bool,
}

impl Answering {
    async fn start(service: Arc<Service>, request: GenerateRequest) -> Result<Answering, Status> {
        let name = request.request_id.clone();
        let understanding = service.clone();
        let understood = aside(move || Ok(request::understand(&understanding, request))).await.map_err(status)??;
        let Understood { ask, prompt, told, transfer } = understood;
        let wanted = transfer.map(|params| transfer::Wanted::parse(&transfer::from_struct(params))).transpose();
        let wanted = wanted.map_err(status)?.unwrap_or_default();
        let (named, aborted) = match name.is_empty() {
            true => (None, None),
            false => {
                let (named, aborted) = Named::new(&service, &name);
                (Some(named), Some(aborted))
            }
        };
        let (running, handing) = transfer::start(&service.serving, ask, wanted).await.map_err(status)?;
        let teller = Teller::new(told, prompt);
        Ok(Answering { service, running, teller, handing, named, aborted, prompt_told: false })
    }

    /// What is told next; nothing after the end.
    async fn next(mut self) -> Option<(Result<GenerateResponse, Status>, Option<Answering>)> {
        if !self.prompt_told && !self.teller.scores_prompt() {
            self.prompt_told = true;
            return Some((Ok(self.teller.prompt(&[])), Some(self)));
        }
        loop {
            let heard = match &mut self.aborted {
                None => self.running.next().await,
                Some(aborted) => tokio::select! {
                    biased;
                    Ok(()) = aborted => return Some((Ok(self.teller.aborted()), None)),
                    heard = self.running.next() => heard,
                },
            };
            return match heard {
                Err(error) => Some((Err(status(error)), None)),
                Ok(Heard::Reading(..) | Heard::Held(_)) => continue,
                Ok(Heard::Scored(scores)) => {
                    self.prompt_told = true;
                    Some((Ok(self.teller.prompt(&scores)), Some(self)))
                }
                Ok(Heard::Token(sampled)) => Some((Ok(self.teller.token(sampled)), Some(self))),
                Ok(Heard::Done(outcome)) => {
                    let transfer = match self.handing.take() {
                        None => None,
                        Some(handing) => handing.offer().await.map(|offer| transfer::to_struct(&offer)),
                    };
                    drop(self.named.take());
                    Some((Ok(self.teller.done(&outcome, &self.service.serving.tokenizer, transfer)), None))
                }
            };
        }
    }

    fn stream(self) -> Told {
        // Until all of it was sent, which may be long after the last of it was computed.
        let live = self.running.live();
        let step = move |answering: Option<Answering>| {
            let _live = &live;
            async move { answering?.next().await }
        };
        futures_util::stream::unfold(Some(self), step).boxed()
    }
}

#[tonic::async_trait]
impl Inference for Shared {
    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<GenerateResponse>, Status> {
        let mut all = Vec::new();
        let mut told = Answering::start(self.0.clone(), request.into_inner()).await?.stream();
        while let Some(response) = told.next().await {
            all.push(response?);
        }
        Ok(Response::new(gathered(all)))
    }

    type GenerateStreamStream = Told;

    async fn generate_stream(&self, request: Request<GenerateRequest>) -> Result<Response<Told>, Status> {
        Ok(Response::new(Answering::start(self.0.clone(), request.into_inner()).await?.stream()))
    }
}
