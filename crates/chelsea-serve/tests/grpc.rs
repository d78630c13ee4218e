//! The interface of routers, asked by the clients that its definition makes.

#![cfg(feature = "grpc")]
#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::{Scheduler, SchedulerOptions, SessionOptions};
use chelsea_kv::{Budget, Pool};
use chelsea_linear::Products;
use chelsea_model::{LoadOptions, RandomModel};
use chelsea_serve::grpc::{self, Announcer, BLOCK, GrpcOptions};
use chelsea_serve::{Engine, Serving, Settings};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use vllm_proto::control_client::ControlClient;
use vllm_proto::finish_info::{FinishReason, StopReason};
use vllm_proto::generate_request::Prompt;
use vllm_proto::inference_client::InferenceClient;
use vllm_proto::*;
use zeromq::{Socket as _, SocketRecv as _, SubSocket};

/// A worker, and clients of all its services.
struct Worker {
    inference: InferenceClient<Channel>,
    control: ControlClient<Channel>,
    health: HealthClient<Channel>,
    engine: Engine,
    end: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Worker {
    async fn start() -> Worker {
        Worker::start_with(|_| ()).await
    }

    async fn start_with(change: impl FnOnce(&mut Settings)) -> Worker {
        let options = LoadOptions { products: Products::Fast };
        let model = Arc::new(RandomModel::named("tiny").unwrap().make(5, &options, &mut |_, _| ()).unwrap());
        let threads = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
        let session = SessionOptions {
            budget: Budget::ByteFraction(0.25),
            window: 16,
            block: 128,
            step: Some(16),
            ..SessionOptions::default()
        };
        let pool = Pool::with_limit(64 << 20);
        let mut settings = Settings { model_name: "tiny".into(), session, ..Settings::default() };
        settings.session.pool = pool.clone();
        change(&mut settings);
        let tokenizer = Arc::new(support::tokenizer());
        let scheduling = SchedulerOptions { pool, ..SchedulerOptions::default() };
        let mut scheduler = Scheduler::new(model.clone(), tokenizer.clone(), threads, scheduling).unwrap();
        let (announcer, announced, watcher) = Announcer::open(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).await.unwrap();
        scheduler.watch_shelf(watcher);
        tokio::spawn(announcer.run());
        let (engine, _) = Engine::start(scheduler);
        let serving = Serving::new(settings, model, tokenizer, None, engine.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ending) = oneshot::channel::<()>();
        let options = GrpcOptions { source: "/models/tiny".into(), events: Some(announced) };
        let task = tokio::spawn(async move {
            grpc::serve(listener, serving, options, async { drop(ending.await) }).await.unwrap();
        });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        // Little lies in buffers on the way, so that a client that does not read is one that has not got it.
        let channel = channel.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let channel = channel.connect().await.unwrap();
        Worker {
            inference: InferenceClient::new(channel.clone()),
            control: ControlClient::new(channel.clone()),
            health: HealthClient::new(channel),
            engine,
            end: Some(end),
            task,
        }
    }

    async fn ask(&mut self, request: GenerateRequest) -> Result<GenerateResponse, tonic::Status> {
        self.inference.generate(request).await.map(tonic::Response::into_inner)
    }

    /// What the engine says once so many requests were answered: it says so after each step.
    async fn stats_after(&self, finished: u64) -> chelsea_engine::SchedulerStats {
        for _ in 0..1000 {
            let stats = self.engine.stats();
            if stats.finished >= finished {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.engine.stats());
    }

    async fn is(&mut self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest { service: service.into() };
        self.health.check(request).await.unwrap().into_inner().status()
    }
}

/// Every byte is a token.
fn tokens(text: &str) -> Prompt {
    Prompt::TokenIds(TokenIds { ids: text.bytes().map(u32::from).collect() })
}

fn request(prompt: Prompt, most: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(prompt),
        stopping: Some(StoppingCriteria { max_new_tokens: most, ignore_eos: true, ..StoppingCriteria::default() }),
        response: Some(ResponseOptions { output_token_ids: true, ..ResponseOptions::default() }),
        ..GenerateRequest::default()
    }
}

fn finish(response: &GenerateResponse) -> &FinishInfo {
    response.outputs.as_ref().unwrap().finish_info.as_ref().unwrap()
}

const TEXT: &str =
    "Once upon a time there was a cache that was clustered while it was read, and nobody had to wait for it.";

#[tokio::test(flavor = "multi_thread")]
async fn tokens_go_in_and_tokens_and_text_come_out() {
    let mut worker = Worker::start().await;
    let whole = worker.ask(request(tokens(TEXT), 20)).await.unwrap();
    let output = whole.outputs.clone().unwrap();
    assert_eq!((output.num_tokens, output.token_ids.len()), (20, 20));
    assert_eq!(whole.prompt_info.as_ref().unwrap().num_prompt_tokens as usize, TEXT.len());
    assert_eq!(finish(&whole).finish_reason(), FinishReason::Length);
    assert_eq!(finish(&whole).num_output_tokens, 20);
    // What HTTP answers to the same.
    let http = support::start();
    let (_, answer) =
        http.post("/v1/completions", &json!({"prompt": TEXT, "max_tokens": 20, "temperature": 0, "ignore_eos": true}));
    assert_eq!(answer["choices"][0]["text"], output.text.as_str());
    // A stream tells the same, piece by piece.
    let mut stream =
        worker.inference.generate_stream(request(Prompt::Text(TEXT.into()), 20)).await.unwrap().into_inner();
    let (mut ids, mut text, mut messages, mut last) = (Vec::new(), String::new(), 0, None);
    while let Some(response) = stream.message().await.unwrap() {
        messages += 1;
        if let Some(output) = &response.outputs {
            assert_eq!(output.num_tokens as usize, output.token_ids.len());
            ids.extend(&output.token_ids);
            text += &output.text;
        } else {
            assert_eq!(messages, 1, "the prompt is told of first");
        }
        last = Some(response);
    }
    assert_eq!((ids, text), (output.token_ids, output.text));
    assert!(messages > 20, "{messages}");
    assert_eq!(finish(&last.unwrap()).num_output_tokens, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_end_where_they_are_told_to_and_not_before() {
    let mut worker = Worker::start().await;
    let free = worker.ask(request(tokens(TEXT), 12)).await.unwrap().outputs.unwrap();
    // At a token that it says by itself.
    let stop = free.token_ids[5];
    let first = free.token_ids.iter().position(|&id| id == stop).unwrap();
    let mut stopped = request(tokens(TEXT), 12);
    stopped.stopping.as_mut().unwrap().stop_token_ids = vec![stop];
    let answer = worker.ask(stopped.clone()).await.unwrap();
    assert_eq!(answer.outputs.as_ref().unwrap().token_ids, free.token_ids[..=first]);
    assert_eq!(finish(&answer).stop_reason, Some(StopReason::StopTokenId(stop)));
    // Not before so many tokens were said: then it says something else there.
    stopped.stopping.as_mut().unwrap().min_new_tokens = first as u32 + 3;
    let later = worker.ask(stopped).await.unwrap().outputs.unwrap();
    assert!(later.token_ids.len() >= first + 3 && !later.token_ids[..first + 3].contains(&stop), "{later:?}");
    // At a text, which is told only where that is asked for.
    let text: String = free.text.chars().skip(2).take(2).collect();
    for include in [false, true] {
        let mut stopped = request(tokens(TEXT), 12);
        let stopping = stopped.stopping.as_mut().unwrap();
        (stopping.stop_strings, stopping.include_stop_strings) = (vec![text.clone()], include);
        let answer = worker.ask(stopped).await.unwrap();
        assert_eq!(finish(&answer).stop_reason, Some(StopReason::StopString(text.clone())));
        assert_eq!(answer.outputs.unwrap().text.ends_with(&text), include);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probabilities_have_a_row_for_every_token() {
    let mut worker = Worker::start().await;
    let mut asked = request(tokens(TEXT), 5);
    let top = |n| Some(CandidateTokens { select: Some(candidate_tokens::Select::TopN(n)) });
    asked.response = Some(ResponseOptions {
        output_token_ids: true,
        output_logprobs: true,
        output_candidates: top(3),
        prompt_logprobs: true,
        prompt_candidates: top(2),
        ..ResponseOptions::default()
    });
    let answer = worker.ask(asked).await.unwrap();
    let output = answer.outputs.unwrap();
    assert_eq!([output.logprobs.len(), output.ranks.len(), output.candidate_tokens.len()], [5; 3]);
    // The likeliest is taken, so the others are the second and the third.
    assert!(output.ranks.iter().all(|&rank| rank == 1));
    let ranks: Vec<u32> = output.candidate_tokens[0].tokens.iter().map(|token| token.rank).collect();
    assert_eq!(ranks, [2, 3]);
    let info = answer.prompt_info.unwrap();
    let rows = [info.token_ids.len(), info.logprobs.len(), info.ranks.len(), info.candidate_tokens.len()];
    assert_eq!(rows, [TEXT.len(); 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_honoured_is_refused_by_its_name() {
    let mut worker = Worker::start().await;
    type Change = fn(&mut GenerateRequest);
    let refused: [(&str, Change); 12] = [
        ("priority", |r| r.priority = 3),
        ("lora_name", |r| r.lora_name = "x".into()),
        ("media", |r| r.media.push(MediaItem::default())),
        ("num_sequences", |r| r.sampling = Some(RandomSampling { num_sequences: 2, ..RandomSampling::default() })),
        ("allowed_token_ids", |r| {
            r.decoding = Some(DecodingParameters { allowed_token_ids: vec![1], ..DecodingParameters::default() })
        }),
        ("prompt", |r| r.prompt = None),
        ("skip_special_tokens", |r| {
            r.response = Some(ResponseOptions { skip_special_tokens: Some(false), ..ResponseOptions::default() })
        }),
        ("stop_token_ids", |r| r.stopping.as_mut().unwrap().stop_token_ids = vec![7; 100_000]),
        ("stop_token_ids", |r| r.stopping.as_mut().unwrap().stop_token_ids = vec![u32::MAX]),
        ("stop_strings", |r| r.stopping.as_mut().unwrap().stop_strings = vec!["x".into(); 17]),
        ("min_new_tokens", |r| r.stopping.as_mut().unwrap().min_new_tokens = 3),
        ("token_ids", |r| r.prompt = Some(Prompt::TokenIds(TokenIds { ids: vec![u32::MAX] }))),
    ];
    for (name, change) in refused {
        let mut asked = request(tokens(TEXT), 2);
        change(&mut asked);
        let status = worker.ask(asked).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}");
        assert!(status.message().contains(&format!("`{name}`")), "{status}");
    }
    let long = worker.ask(request(tokens(&"x".repeat(1 << 20)), 2)).await.unwrap_err();
    assert_eq!(long.code(), Code::InvalidArgument);
    assert!(long.message().contains("maximum context length"), "{long}");
    // Shortened, it is as long as may be.
    let short = GenerateRequest { truncate_prompt_tokens: 20, ..request(tokens(&"x".repeat(1 << 20)), 2) };
    assert_eq!(worker.ask(short).await.unwrap().prompt_info.unwrap().num_prompt_tokens, 20);
    let other = GenerateRequest { model: "another".into(), ..request(tokens(TEXT), 2) };
    assert_eq!(worker.ask(other).await.unwrap_err().code(), Code::NotFound);
    let lora = worker.control.load_lora(LoadLoraRequest::default()).await.unwrap_err();
    assert_eq!(lora.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_bypasses_checkpoints_leaves_none() {
    let mut worker = Worker::start().await;
    let mut apart = request(tokens(TEXT), 8);
    apart.kv = Some(KvCacheParameters { bypass_prefix_cache: true, ..KvCacheParameters::default() });
    let first = worker.ask(apart.clone()).await.unwrap().outputs.unwrap();
    assert_eq!(worker.stats_after(1).await.checkpoints, 0);
    let usual = worker.ask(request(tokens(TEXT), 8)).await.unwrap().outputs.unwrap();
    let stats = worker.stats_after(2).await;
    assert_eq!((stats.checkpoints, stats.prompt_tokens as usize), (1, 2 * TEXT.len()));
    // There is one now, and it is not gone on from.
    let again = worker.ask(apart).await.unwrap().outputs.unwrap();
    assert_eq!(worker.stats_after(3).await.prompt_tokens as usize, 3 * TEXT.len());
    assert_eq!([&first.token_ids, &again.token_ids], [&usual.token_ids; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_held_to_its_form() {
    let mut worker = Worker::start().await;
    let mut asked = request(tokens(TEXT), 30);
    let choices = vec!["left".to_owned(), "right".to_owned()];
    let choice = decoding_parameters::StringChoices { choices: choices.clone() };
    asked.decoding = Some(DecodingParameters {
        structured_output: Some(decoding_parameters::StructuredOutput::Choice(choice)),
        ..DecodingParameters::default()
    });
    let answer = worker.ask(asked).await.unwrap().outputs.unwrap();
    assert!(choices.contains(&answer.text.trim().to_owned()), "{}", answer.text);
    assert_eq!(answer.finish_info.unwrap().finish_reason(), FinishReason::Stop);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_when_it_is_aborted_or_its_client_goes() {
    let mut worker = Worker::start().await;
    let long = |name: &str| GenerateRequest { request_id: name.into(), ..request(tokens(TEXT), 100_000) };
    let mut stream = worker.inference.generate_stream(long("one")).await.unwrap().into_inner();
    while stream.message().await.unwrap().unwrap().outputs.is_none() {}
    worker.control.abort(AbortRequest { request_ids: vec!["one".into(), "unknown".into()] }).await.unwrap();
    let mut last = None;
    while let Some(response) = stream.message().await.unwrap() {
        last = Some(response);
    }
    assert_eq!(finish(&last.unwrap()).finish_reason(), FinishReason::Aborted);
    let other = worker.inference.generate_stream(long("two")).await.unwrap().into_inner();
    drop(other);
    for _ in 0..200 {
        if worker.engine.stats().running == 0 && worker.engine.stats().cancelled == 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody listens, and it goes on: {:?}", worker.engine.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_what_it_is() {
    let mut worker = Worker::start().await;
    let model = worker.control.get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((&*model.model_id, &*model.served_model_name), ("/models/tiny", "tiny"));
    assert!(model.supports_text_input && model.supports_token_ids_input);
    let server = worker.control.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((&*server.api_version, server.kv_block_size as usize), ("vllm", BLOCK));
    assert!(server.max_model_len > 0 && server.total_kv_blocks > 0 && server.max_running_requests == 64);
    assert_eq!(server.parallelism.unwrap().data_parallel_size, 1);
    let paused = worker.control.is_paused(IsPausedRequest {}).await.unwrap().into_inner();
    assert!(!paused.paused);
    for service in ["", "vllm.Control", "vllm.Inference"] {
        assert_eq!(worker.is(service).await, ServingStatus::Serving);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drains_sends_others_away_and_finishes_what_it_has() {
    let mut worker = Worker::start().await;
    let mut stream = worker.inference.generate_stream(request(tokens(TEXT), 300)).await.unwrap().into_inner();
    while stream.message().await.unwrap().unwrap().outputs.is_none() {}
    worker.end.take().unwrap().send(()).unwrap();
    // Until the server has heard of it.
    let mut refused = None;
    for _ in 0..50 {
        match worker.ask(request(tokens("x"), 1)).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(status) => {
                refused = Some(status);
                break;
            }
        }
    }
    assert_eq!(refused.unwrap().code(), Code::Unavailable);
    let mut last = None;
    while let Some(response) = stream.message().await.unwrap() {
        last = Some(response);
    }
    assert_eq!(finish(&last.unwrap()).num_output_tokens, 300);
    tokio::time::timeout(Duration::from_secs(10), worker.task).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_has_its_whole_answer_when_the_worker_ends() {
    let mut worker = Worker::start().await;
    let mut asked = request(tokens(TEXT), 3000);
    // More than the server's own buffers take.
    asked.response = Some(ResponseOptions {
        output_token_ids: true,
        output_logprobs: true,
        output_candidates: Some(CandidateTokens { select: Some(candidate_tokens::Select::TopN(20)) }),
        ..ResponseOptions::default()
    });
    let mut stream = worker.inference.generate_stream(asked).await.unwrap().into_inner();
    while stream.message().await.unwrap().unwrap().outputs.is_none() {}
    worker.end.take().unwrap().send(()).unwrap();
    while worker.engine.is_alive() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(!worker.task.is_finished(), "it waits for the client");
    let (mut tokens, mut last) = (1, None);
    while let Some(response) = stream.message().await.unwrap() {
        tokens += response.outputs.as_ref().unwrap().num_tokens;
        last = Some(response);
    }
    assert_eq!((tokens, finish(&last.unwrap()).num_output_tokens), (3000, 3000));
    tokio::time::timeout(Duration::from_secs(10), worker.task).await.unwrap().unwrap();
}

/// Events of one message: its number, and what the batch holds as far as the test has to know.
async fn hear(socket: &mut SubSocket) -> (u64, Vec<u8>) {
    let message = tokio::time::timeout(Duration::from_secs(10), socket.recv()).await.unwrap().unwrap();
    let frames: Vec<_> = message.into_vec();
    assert_eq!((frames.len(), &*frames[0]), (3, &b"kv-events"[..]));
    (u64::from_be_bytes(frames[1][..].try_into().unwrap()), frames[2].to_vec())
}

fn count(haystack: &[u8], needle: &str) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle.as_bytes()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_hear_which_prefixes_lie_in_checkpoints() {
    let mut worker = Worker::start().await;
    let sources = worker.control.get_kv_event_sources(GetKvEventSourcesRequest {}).await.unwrap().into_inner().sources;
    let [source] = sources.as_slice() else { panic!("{sources:?}") };
    assert_eq!((&*source.transport, &*source.encoding, source.data_parallel_rank), ("zmq", "msgpack", Some(0)));
    let mut early = SubSocket::new();
    early.connect(&source.endpoint).await.unwrap();
    early.subscribe(&source.topic).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    worker.ask(request(tokens(TEXT), 2)).await.unwrap();
    let (number, stored) = hear(&mut early).await;
    assert_eq!((number, count(&stored, "BlockStored")), (0, 1));
    // Requests of another salt leave checkpoints that are nobody else's.
    let mut salted = request(tokens(&TEXT.to_uppercase()), 2);
    salted.kv = Some(KvCacheParameters { cache_salt: "s".into(), ..KvCacheParameters::default() });
    worker.ask(salted).await.unwrap();
    // Whoever comes late hears of everything; the others hear it again.
    let mut late = SubSocket::new();
    late.connect(&source.endpoint).await.unwrap();
    late.subscribe(&source.topic).await.unwrap();
    let ((_, late_stored), (number, again)) = (hear(&mut late).await, hear(&mut early).await);
    assert_eq!((number, count(&again, "BlockStored")), (1, 1));
    assert_eq!(late_stored, again);
    worker.engine.flush();
    // The thread looks at what it is told when there is something to do.
    worker.ask(request(tokens("y"), 1)).await.unwrap();
    let (_, removed) = hear(&mut early).await;
    assert_eq!(count(&removed, "BlockRemoved"), 1);
}
