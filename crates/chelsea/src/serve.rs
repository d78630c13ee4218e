//! `chelsea serve`: many conversations over HTTP, in the bytes that were promised.

use crate::cli::ServeArgs;
use crate::setup::{self, Loaded};
use crate::{cluster, mounts, output, signals};
use anyhow::{Context as _, Result, bail};
use chelsea_engine::scheduler::DiskOptions;
use chelsea_engine::{Scheduler, SchedulerOptions};
use chelsea_kv::Pool;
use chelsea_serve::{Engine, FileLimits, Files, Serving, Settings};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Runs the verb.
pub fn run(args: &ServeArgs) -> Result<()> {
    if args.print_config {
        print!("{}", args.settings);
        return Ok(());
    }
    let policy = args.cache.policy();
    if policy.needs().repetition.is_some() {
        bail!("policy `{}` reads every text twice, which a server does not: choose another", policy.name());
    }
    if let Some(folder) = &args.shelf {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let api_keys = keys(args)?;
    if !args.host.is_loopback() && api_keys.is_empty() {
        tracing::warn!("everybody who can reach {} may ask: require a key with --api-key", args.host);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the server's threads")?;
    // Before the model is loaded, which may take long: a port that is taken is told at once.
    let address = SocketAddr::new(args.host, args.port);
    let listener = runtime.block_on(TcpListener::bind(address));
    let listener = listener.with_context(|| format!("cannot listen on {address}: choose another with --port"))?;
    let address = listener.local_addr().context("the listener has no address")?;

    let quiet = !std::io::stderr().is_terminal();
    // Of models while they are loaded, of mounted caches and of the shelf.
    signals::watch_maps()?;
    let Loaded { model, tokenizer, template, pool: threads, name, path, .. } = setup::load(&args.model, quiet)?;
    let mut session = args.cache.session(&model);
    setup::warn_long_context(&model, &session);
    let max_stall = Duration::from_millis(args.max_stall);
    session.step = Some(match args.read_step {
        Some(step) => step as usize,
        None => chelsea_serve::step_for(&model, &threads, max_stall)?,
    });
    let kv_memory = match args.kv_memory {
        Some(bytes) => bytes,
        None => setup::available_bytes().map(|bytes| bytes / 2).context(
            "this system does not tell how much memory is free: say how much caches may take with --kv-memory 4GiB",
        )?,
    };
    let kv_memory = match model.backend().pool().and_then(|pool| pool.limit()) {
        None => kv_memory,
        Some(room) => match args.kv_memory {
            Some(asked) if asked > room => bail!(
                "--kv-memory {}: the device has room for {} of caches beside the model",
                output::bytes(asked),
                output::bytes(room)
            ),
            Some(asked) => asked,
            None => room,
        },
    };
    session.pool = Pool::with_limit(kv_memory);
    let tokenizer = Arc::new(tokenizer);
    let options = SchedulerOptions {
        pool: session.pool.clone(),
        running: args.max_running as usize,
        lanes: args.lanes as usize,
        waiting: args.max_waiting as usize,
        checkpoints: args.checkpoints as usize,
        disk: args.shelf.as_ref().map(|folder| DiskOptions { folder: folder.clone(), bytes: args.shelf_bytes as u64 }),
        ..SchedulerOptions::default()
    };
    let mut settings = Settings {
        model_name: args.served_model_name.clone().unwrap_or(name),
        session,
        api_keys,
        origins: args.allow_origin.clone(),
        hosts: args.allow_host.clone(),
        running: args.max_running as usize,
        waiting: args.max_waiting as usize,
        body: args.max_body,
        max_stall,
        transfer: cluster::transfer(&args.cluster, address)?,
        ..Settings::default()
    };
    let scheduler = Scheduler::new(model.clone(), tokenizer.clone(), threads, options);
    let mut scheduler = scheduler.context("checkpoints cannot be kept where --shelf says")?;
    settings.mounts = mounts::mount(&mut scheduler, &args.mount, &tokenizer, template.as_ref())?;
    settings.files = Arc::new(files(args).context("documents cannot be kept where --shelf says")?);
    let routers = runtime.block_on(cluster::listen(&args.cluster, &path, &mut scheduler))?;
    let (engine, thread) = Engine::start(scheduler);
    let serving = Serving::new(settings, model, tokenizer, template, engine);
    announce(&serving, address, kv_memory, &routers);
    runtime.block_on(async {
        let (end, ended) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            ending().await;
            let _nobody = end.send(true);
        });
        let told = || {
            let mut ended = ended.clone();
            async move { drop(ended.wait_for(|&ended| ended).await) }
        };
        let http = async { chelsea_serve::serve(listener, serving.clone(), told()).await.context("the server failed") };
        tokio::try_join!(http, routers.serve(serving.clone(), told()))
    })?;
    if thread.join().is_err() {
        bail!("the engine failed: what it said stands above");
    }
    Ok(())
}

/// Where the documents that clients bring are kept. After the folder was locked: what is no whole document is removed.
fn files(args: &ServeArgs) -> std::io::Result<Files> {
    let limits = FileLimits { files: args.max_files as usize, bytes: args.max_file_bytes as u64 };
    match &args.shelf {
        Some(folder) => Files::in_folder(&folder.join("documents"), limits),
        None => Ok(Files::in_memory(limits)),
    }
}

/// Keys of the command line, of the environment and of a file.
fn keys(args: &ServeArgs) -> Result<Vec<String>> {
    let mut keys = args.api_key.clone();
    keys.extend(std::env::var("CHELSEA_API_KEY").ok());
    if let Some(file) = &args.api_key_file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read keys from {}", file.display()))?;
        keys.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    keys.retain(|key| !key.is_empty());
    Ok(keys)
}

/// Says where the server is, and within what limits.
fn announce(serving: &Serving, address: SocketAddr, kv_memory: usize, routers: &cluster::Routers) {
    let session = &serving.settings.session;
    let config = chelsea_engine::cache_config(&serving.model, session);
    let held = config.ok().map(|config| config.forecast(4096, &session.plan()).settled);
    let mut table = output::Table::default();
    table.row(["listening on".to_owned(), format!("http://{address}")]);
    table.row(["model".to_owned(), serving.settings.model_name.clone()]);
    table.row(["context".to_owned(), format!("{} tokens", serving.context())]);
    table.row(["caches".to_owned(), format!("{} together, {} each", output::bytes(kv_memory), session.budget)]);
    if let Some(held) = held.filter(|&held| held > 0) {
        table.row(["room for".to_owned(), format!("{} conversations of 4096 tokens", kv_memory / held)]);
    }
    for mount in serving.settings.mounts.iter() {
        table.row([
            "document".to_owned(),
            format!("{}, {} tokens ({})", mount.name, mount.about.tokens.len(), mount.id()),
        ]);
    }
    table.row(["prompts in steps of".to_owned(), format!("{} tokens", session.step.unwrap_or_default())]);
    for row in routers.rows() {
        table.row(row);
    }
    eprint!("{}", table.render());
}

/// Comes to pass with the first Ctrl-C or SIGTERM; the second one ends the command at once.
async fn ending() {
    signal().await;
    eprintln!("ending: answers on their way are finished first; once more ends at once");
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
}

async fn signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut stream) => {
                stream.recv().await;
            }
            Err(_) => std::future::pending::<()>().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}
