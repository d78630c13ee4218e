//! `vllm.Control`: which model is here, within what limits, and how to end a request. What belongs to training and to
//! adapters, which this server has not, is answered with `UNIMPLEMENTED`.

use super::{BLOCK, Service, Shared};
use tonic::{Request, Response, Status};
use vllm_proto::control_server::Control;
use vllm_proto::*;

type Answer<T> = Result<Response<T>, Status>;

fn none_of<T>(what: &str) -> Answer<T> {
    Err(Status::unimplemented(format!("this server has no {what}")))
}

impl Service {
    fn server_info(&self) -> ServerInfo {
        let serving = &self.serving;
        let stats = serving.engine.stats();
        // How many blocks of a prompt all caches together can hold, by what a prompt of this length takes.
        const TOKENS: usize = 4096;
        let session = &serving.settings.session;
        let config = chelsea_engine::cache_config(&serving.model, session);
        let each = config.map_or(0, |config| config.forecast(TOKENS, &session.plan()).settled);
        let blocks = (stats.kv_limit as u128 * (TOKENS / BLOCK) as u128).checked_div(each as u128).unwrap_or(0);
        ServerInfo {
            engine_version: format!("chelsea {}", env!("CARGO_PKG_VERSION")),
            api_version: "vllm".into(),
            instance_id: self.instance.clone(),
            parallelism: Some(ParallelismInfo {
                tensor_parallel_size: 1,
                pipeline_parallel_size: 1,
                data_parallel_size: 1,
                data_parallel_rank: 0,
                decode_context_parallel_size: 1,
                world_size: 1,
                data_parallel_size_local: 1,
            }),
            max_model_len: serving.context() as u32,
            kv_block_size: BLOCK as u32,
            total_kv_blocks: u64::try_from(blocks).unwrap_or(u64::MAX),
            max_running_requests: serving.settings.running as u64,
            max_batched_tokens: session.plan().longest as u64,
            max_loras: 0,
            rl_capabilities: None,
            effective_attention_block_size: Some(BLOCK as u64),
        }
    }

    fn model_info(&self) -> ModelInfo {
        let name = &self.serving.settings.model_name;
        ModelInfo {
            model_id: if self.source.is_empty() { name.clone() } else { self.source.clone() },
            served_model_name: name.clone(),
            supports_text_input: true,
            supports_token_ids_input: true,
            ..ModelInfo::default()
        }
    }
}

#[tonic::async_trait]
impl Control for Shared {
    async fn get_server_info(&self, _: Request<GetServerInfoRequest>) -> Answer<ServerInfo> {
        Ok(Response::new(self.0.server_info()))
    }

    async fn get_model_info(&self, _: Request<GetModelInfoRequest>) -> Answer<ModelInfo> {
        Ok(Response::new(self.0.model_info()))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Answer<AbortResponse> {
        request.into_inner().request_ids.iter().for_each(|name| self.0.aborts.abort(name));
        Ok(Response::new(AbortResponse {}))
    }

    async fn get_kv_event_sources(&self, _: Request<GetKvEventSourcesRequest>) -> Answer<GetKvEventSourcesResponse> {
        let source = |events: &super::Announced| KvEventSource {
            transport: "zmq".into(),
            endpoint: events.endpoint.clone(),
            topic: events.topic.clone(),
            data_parallel_rank: Some(0),
            encoding: "msgpack".into(),
            schema_version: 1,
            ..KvEventSource::default()
        };
        let sources = self.0.events.iter().map(source).collect();
        Ok(Response::new(GetKvEventSourcesResponse { sources }))
    }

    async fn list_loras(&self, _: Request<ListLorasRequest>) -> Answer<ListLorasResponse> {
        Ok(Response::new(ListLorasResponse::default()))
    }

    async fn load_lora(&self, _: Request<LoadLoraRequest>) -> Answer<LoadLoraResponse> {
        none_of("adapters")
    }

    async fn unload_lora(&self, _: Request<UnloadLoraRequest>) -> Answer<UnloadLoraResponse> {
        none_of("adapters")
    }

    async fn pause_generation(&self, _: Request<PauseGenerationRequest>) -> Answer<PauseGenerationResponse> {
        none_of("way to pause")
    }

    async fn resume_generation(&self, _: Request<ResumeGenerationRequest>) -> Answer<ResumeGenerationResponse> {
        none_of("way to pause")
    }

    async fn is_paused(&self, _: Request<IsPausedRequest>) -> Answer<IsPausedResponse> {
        Ok(Response::new(IsPausedResponse { paused: false }))
    }

    async fn sleep(&self, _: Request<SleepRequest>) -> Answer<SleepResponse> {
        none_of("way to sleep")
    }

    async fn wake_up(&self, _: Request<WakeUpRequest>) -> Answer<WakeUpResponse> {
        none_of("way to sleep")
    }

    async fn is_sleeping(&self, _: Request<IsSleepingRequest>) -> Answer<IsSleepingResponse> {
        Ok(Response::new(IsSleepingResponse { sleeping: false }))
    }

    async fn init_weight_transfer_engine(
        &self,
        _: Request<InitWeightTransferEngineRequest>,
    ) -> Answer<InitWeightTransferEngineResponse> {
        none_of("weights that change")
    }

    async fn start_weight_update(&self, _: Request<StartWeightUpdateRequest>) -> Answer<StartWeightUpdateResponse> {
        none_of("weights that change")
    }

    async fn start_draft_weight_update(
        &self,
        _: Request<StartDraftWeightUpdateRequest>,
    ) -> Answer<StartDraftWeightUpdateResponse> {
        none_of("weights that change")
    }

    async fn update_weights(&self, _: Request<UpdateWeightsRequest>) -> Answer<UpdateWeightsResponse> {
        none_of("weights that change")
    }

    async fn finish_weight_update(&self, _: Request<FinishWeightUpdateRequest>) -> Answer<FinishWeightUpdateResponse> {
        none_of("weights that change")
    }

    async fn update_weight_version(
        &self,
        _: Request<UpdateWeightVersionRequest>,
    ) -> Answer<UpdateWeightVersionResponse> {
        none_of("weights that change")
    }

    async fn get_weight_version(&self, _: Request<GetWeightVersionRequest>) -> Answer<GetWeightVersionResponse> {
        none_of("weights that change")
    }
}
